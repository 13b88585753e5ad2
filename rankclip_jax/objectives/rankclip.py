"""RankCLIP (Zhang et al., ICCV 2025): CLIP plus ranking consistency within and across modalities.

L = L_clip + w(progress) (lambda_cross L_cross + lambda_in L_in)
"""

import dataclasses

import jax

from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import clip, ranking, schedules
from rankclip_jax.objectives.objective import Metrics, Step
from rankclip_jax.objectives.pairwise import Scalars, Similarities, mean_over_rows


@dataclasses.dataclass(frozen=True)
class Options(ranking.Options):
    """The ranking terms' options, and the ramp ``w``: from, to, reached at this share of training."""

    ramp: tuple[float, float, float] = (0.0, 2.0, 2 / 3)


def loss(outputs: Outputs, options: Options, step: Step) -> tuple[jax.Array, Metrics]:
    """CLIP's loss, second views included (see `clip`), plus the ramped terms of `ranking.consistency`."""
    weight = schedules.ramp(step.progress, *options.ramp)

    def row_loss(similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        contrastive, metrics = clip.contrastive_rows(similarity, scalars["scale"])
        ranked, more = ranking.weighted_rows(similarity, scalars["scale"], options)
        return contrastive + scalars["weight"] * ranked, metrics | more

    scalars = {**outputs.scalars, "weight": weight}
    total, metrics = mean_over_rows(row_loss, outputs.embeddings, scalars, step, options)
    return total, metrics | {"ranking_weight": weight}
