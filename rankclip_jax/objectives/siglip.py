"""SigLIP (Zhai et al., 2023): every image-text pair is a yes-or-no question of its own.

    L = -1/B sum_ij log sigmoid(z_ij (s x_i t_j + b)),   z_ij = 1 where i = j, else -1

With ``-log sigmoid(-u) = softplus(u)`` and ``-log sigmoid(u) = softplus(u) - u`` a row is the sum of softplus over
all columns, less its own logit.
"""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import batch
from rankclip_jax.objectives.pairwise import Metrics, Scalars, Similarities


def loss(
    outputs: Outputs, *, progress: jax.Array, key: jax.Array, config: ConfigDict, mesh: Mesh | None
) -> tuple[jax.Array, Metrics]:
    """The sigmoid loss over the global batch; the outputs need a ``logit_bias`` (``config.model.learn_logit_bias``)."""
    del progress

    def row_loss(similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        logits = scalars["scale"] * similarity("image", "text") + scalars["bias"]
        signed = jnp.where(similarity.own, -logits, logits)
        sigmoid = jnp.sum(jax.nn.softplus(signed), axis=-1)
        return sigmoid, {"sigmoid": sigmoid}

    scalars = {"bias": outputs["logit_bias"]}
    total, metrics = batch.mean_loss(row_loss, outputs, key=key, config=config, mesh=mesh, scalars=scalars)
    return total, metrics | {"logit_bias": outputs["logit_bias"]}
