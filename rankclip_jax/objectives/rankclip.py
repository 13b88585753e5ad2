"""RankCLIP (Zhang et al., ICCV 2025): CLIP plus ranking consistency within and across modalities.

L = L_clip + w(progress) (lambda_cross L_cross + lambda_in L_in)
"""

import dataclasses

import jax

from rankclip_jax.input_pipeline.setting import FRACTION, WEIGHT, Each, setting
from rankclip_jax.objectives import clip, ranking, schedules
from rankclip_jax.objectives.objective import Metrics, Step
from rankclip_jax.objectives.pairwise import Scalars, Similarities


@dataclasses.dataclass(frozen=True)
class RankClip(ranking.RankingOptions, clip.Clip):
    """CLIP's loss, second views included (see `clip`), plus the ramped terms of `ranking.consistency`."""

    ramp: tuple[float, float, float] = setting(
        (0.0, 2.0, 2 / 3),
        "ranking weight: start, end, fraction of training at which the end is reached",
        Each(WEIGHT, WEIGHT, FRACTION),
    )

    def scheduled(self, step: Step) -> Scalars:
        """Returns the ranking weight ``w`` of the ramp."""
        return {"ranking_weight": schedules.ramp(step.progress, *self.ramp)}

    def row_loss(self, similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        """Returns each pair's sum of the three weighted terms."""
        contrastive, metrics = clip.contrastive_rows(similarity, scalars["scale"])
        ranking_loss, more = ranking.weighted_rows(similarity, scalars["scale"], self)
        return contrastive + scalars["ranking_weight"] * ranking_loss, metrics | more
