"""Ranking consistency without a contrastive term, an ablation of RankCLIP.

L = lambda_cross L_cross + lambda_in L_in
"""

import dataclasses

import jax

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.setting import setting
from rankclip_jax.objectives import ranking
from rankclip_jax.objectives.objective import Metrics
from rankclip_jax.objectives.pairwise import PairwiseObjective, Scalars, Similarities


@dataclasses.dataclass(frozen=True)
class RankingAlone(ranking.RankingOptions, PairwiseObjective):
    """The two terms of `ranking.consistency`, without a ramp, since there is no contrastive term to balance."""

    second_view: bool = setting(False, "contrast each image and text with an augmented view of itself too")

    def __post_init__(self) -> None:
        if self.second_view:
            raise UserError(
                "config.objective.second_view: expected False, since the objective 'ranking' has no contrastive term; "
                "found True. Use --config.objective.second_view=False, or --config.objective.name=rankclip."
            )

    def row_loss(self, similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        """Returns each pair's weighted sum of both terms."""
        return ranking.weighted_rows(similarity, scalars["scale"], self)
