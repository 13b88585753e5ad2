"""CyCLIP (Goel et al., 2022): CLIP plus cyclic consistency across and within modalities.

L = L_clip + c_cross / B sum_ij (x_i t_j - t_i x_j)^2 + c_in / B sum_ij (x_i x_j - t_i t_j)^2
"""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import batch, clip
from rankclip_jax.objectives.pairwise import Metrics, Scalars, Similarities


def loss(
    outputs: Outputs, *, progress: jax.Array, key: jax.Array, config: ConfigDict, mesh: Mesh | None
) -> tuple[jax.Array, Metrics]:
    """CLIP's loss plus the two cyclic terms, weighted by ``config.cyclic``."""
    del progress
    cross_weight, in_weight = config.cyclic

    def row_loss(similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        contrastive = clip.contrastive_rows(similarity, scalars["scale"])
        cross = jnp.sum((similarity("image", "text") - similarity("text", "image")) ** 2, axis=-1)
        within = jnp.sum((similarity("image", "image") - similarity("text", "text")) ** 2, axis=-1)
        total = contrastive + cross_weight * cross + in_weight * within
        return total, {"contrastive": contrastive, "cyclic_cross": cross, "cyclic_in": within}

    return batch.mean_loss(row_loss, outputs, key=key, config=config, mesh=mesh)
