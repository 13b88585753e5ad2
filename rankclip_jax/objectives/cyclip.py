"""CyCLIP (Goel et al., 2022): CLIP plus cyclic consistency across and within modalities.

L = L_clip + c_cross / B sum_ij (x_i t_j - t_i x_j)^2 + c_in / B sum_ij (x_i x_j - t_i t_j)^2
"""

import dataclasses

import jax
import jax.numpy as jnp

from rankclip_jax.input_pipeline.setting import WEIGHT, Each, setting
from rankclip_jax.objectives import clip
from rankclip_jax.objectives.objective import Metrics
from rankclip_jax.objectives.pairwise import Scalars, Similarities


@dataclasses.dataclass(frozen=True)
class CyClip(clip.Clip):
    """CLIP's loss, second views included (see `clip`), plus the two cyclic terms."""

    cyclic: tuple[float, float] = setting(
        (0.25, 0.25), "weights of cross- and in-modal cyclic consistency (the paper's)", Each(WEIGHT, WEIGHT)
    )

    def row_loss(self, similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        """Returns each pair's sum of the three weighted terms."""
        cross_weight, in_weight = self.cyclic
        contrastive, metrics = clip.contrastive_rows(similarity, scalars["scale"])
        cross = jnp.sum((similarity("image", "text") - similarity("text", "image")) ** 2, axis=-1)
        within = jnp.sum((similarity("image", "image") - similarity("text", "text")) ** 2, axis=-1)
        total = contrastive + cross_weight * cross + in_weight * within
        return total, metrics | {"cyclic_cross": cross, "cyclic_in": within}
