"""SigLIP (Zhai et al., 2023): every image-text pair is a yes-or-no question of its own.

    L = -1/B sum_ij log sigmoid(z_ij (s x_i t_j + b)),   z_ij = 1 where i = j, else -1

With ``-log sigmoid(-u) = softplus(u)`` and ``-log sigmoid(u) = softplus(u) - u`` a row is the sum of softplus over
all columns, less its own logit. The bias ``b`` is learned, from -10. All of the loss is contrastive: with second views
it is averaged with CLIP's term for them, ``(L + L_second) / 2``.
"""

import jax
import jax.numpy as jnp

from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import clip
from rankclip_jax.objectives.objective import Metrics, Options, Step
from rankclip_jax.objectives.pairwise import Scalars, Similarities, mean_over_rows

PARAMETERS = {"logit_bias": -10.0}  # the paper's


def loss(outputs: Outputs, options: Options, step: Step) -> tuple[jax.Array, Metrics]:
    """The sigmoid loss over the global batch; its paper starts with ``config.model.initial_logit_scale=10``."""

    def row_loss(similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        logits = scalars["scale"] * similarity("image", "text") + scalars["logit_bias"]
        signed = jnp.where(similarity.own, -logits, logits)
        sigmoid = jnp.sum(jax.nn.softplus(signed), axis=-1)
        return clip.with_second_view(sigmoid, similarity, scalars["scale"], "sigmoid")

    total, metrics = mean_over_rows(row_loss, outputs.embeddings, outputs.scalars, step, options)
    return total, metrics | {"logit_bias": outputs.scalars["logit_bias"]}
