"""CLIP's contrastive loss (Radford et al., 2021): each image tells its text from all others, and the reverse.

L = (CE(s x t', diagonal) + CE(s t x', diagonal)) / 2
"""

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import batch
from rankclip_jax.objectives.pairwise import Metrics, Scalars, Similarities


def loss(
    outputs: Outputs, *, progress: jax.Array, key: jax.Array, config: ConfigDict, mesh: Mesh | None
) -> tuple[jax.Array, Metrics]:
    """The contrastive loss over the global batch; see `rankclip_jax.objectives` for the arguments."""
    del progress

    def row_loss(similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        contrastive = contrastive_rows(similarity, scalars["scale"])
        return contrastive, {"contrastive": contrastive}

    return batch.mean_loss(row_loss, outputs, key=key, config=config, mesh=mesh)


def contrastive_rows(similarity: Similarities, scale: jax.Array) -> jax.Array:
    """Each pair's share: ``[chunk]``."""
    return (similarity.cross_entropy("image", "text", scale) + similarity.cross_entropy("text", "image", scale)) / 2
