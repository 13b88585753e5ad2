"""SigLIP (Zhai et al., 2023): a binary classification of every image-text pair.

    L = -1/B sum_ij log sigmoid(z_ij (s x_i t_j + b)),   z_ij = 1 where i = j, else -1

With ``-log sigmoid(-u) = softplus(u)`` and ``-log sigmoid(u) = softplus(u) - u``, a row's loss is the sum of softplus
over all columns, minus its own logit. The bias ``b`` is learned and starts at -10. With second views the loss is
averaged with CLIP's term for them, ``(L + L_second) / 2``, since all of it is contrastive. With
``config.objective.same_text``, z_ij is 1 for equal captions too.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import clip
from rankclip_jax.objectives.objective import LossResult, Metrics, Step
from rankclip_jax.objectives.pairwise import Scalars, Similarities


@dataclasses.dataclass(frozen=True)
class SigLip(clip.Clip):
    """The sigmoid loss over the global batch; the paper uses ``config.model.initial_logit_scale=10``."""

    def parameters(self) -> Mapping[str, float]:
        """Returns the bias with the paper's initial value."""
        return {"logit_bias": -10.0}

    def row_loss(self, similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        """Returns each image's loss."""
        logits = scalars["scale"] * similarity("image", "text") + scalars["logit_bias"]
        signed = jnp.where(similarity.positives, -logits, logits)
        sigmoid = jnp.sum(jax.nn.softplus(signed), axis=-1)
        return clip.with_second_view(sigmoid, similarity, scalars["scale"], "sigmoid")

    def loss(self, outputs: Outputs, step: Step) -> LossResult:
        """Computes the mean loss over all rows, and adds the bias to the metrics."""
        result = super().loss(outputs, step)
        return result._replace(metrics=result.metrics | {"logit_bias": outputs.scalars["logit_bias"]})
