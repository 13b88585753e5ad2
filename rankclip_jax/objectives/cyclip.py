"""CyCLIP (Goel et al., 2022): CLIP plus cyclic consistency across and within modalities.

L = L_clip + c_cross / B sum_ij (x_i t_j - t_i x_j)^2 + c_in / B sum_ij (x_i x_j - t_i t_j)^2
"""

import dataclasses

import jax
import jax.numpy as jnp

from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import clip, objective
from rankclip_jax.objectives.objective import Metrics, Step
from rankclip_jax.objectives.pairwise import Scalars, Similarities, mean_over_rows


@dataclasses.dataclass(frozen=True)
class Options(objective.Options):
    """Weights of the two cyclic terms, across and within modalities; 0.25 each in the paper."""

    cyclic: tuple[float, float] = (0.25, 0.25)


def loss(outputs: Outputs, options: Options, step: Step) -> tuple[jax.Array, Metrics]:
    """CLIP's loss, second views included (see `clip`), plus the two cyclic terms."""
    cross_weight, in_weight = options.cyclic

    def row_loss(similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        contrastive, metrics = clip.contrastive_rows(similarity, scalars["scale"])
        cross = jnp.sum((similarity("image", "text") - similarity("text", "image")) ** 2, axis=-1)
        within = jnp.sum((similarity("image", "image") - similarity("text", "text")) ** 2, axis=-1)
        total = contrastive + cross_weight * cross + in_weight * within
        return total, metrics | {"cyclic_cross": cross, "cyclic_in": within}

    return mean_over_rows(row_loss, outputs.embeddings, outputs.scalars, step, options)
