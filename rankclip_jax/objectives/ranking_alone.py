"""Ranking consistency without a contrastive term: what the ranking terms learn by themselves.

L = lambda_cross L_cross + lambda_in L_in
"""

import dataclasses

import jax

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import ranking
from rankclip_jax.objectives.objective import Metrics, Step
from rankclip_jax.objectives.pairwise import Scalars, Similarities, mean_over_rows


@dataclasses.dataclass(frozen=True)
class Options(ranking.Options):
    """The ranking terms' options; second views belong to a contrastive term, which this has not."""

    second_view: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.second_view:
            raise UserError(
                "config.objective.second_view: ranking has no contrastive term that a second view would count in. Say "
                "--config.objective.second_view=False, or take --config.objective.name=rankclip."
            )


def loss(outputs: Outputs, options: Options, step: Step) -> tuple[jax.Array, Metrics]:
    """The two terms of `ranking.consistency`, without a ramp, since there is nothing to ramp against."""

    def row_loss(similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        return ranking.weighted_rows(similarity, scalars["scale"], options)

    return mean_over_rows(row_loss, outputs.embeddings, outputs.scalars, step, options)
