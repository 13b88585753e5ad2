"""Ranking consistency without a contrastive term: what the ranking terms learn by themselves.

L = lambda_cross L_cross + lambda_in L_in
"""

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import batch, ranking
from rankclip_jax.objectives.pairwise import Metrics, Scalars, Similarities


def loss(
    outputs: Outputs, *, progress: jax.Array, key: jax.Array, config: ConfigDict, mesh: Mesh | None
) -> tuple[jax.Array, Metrics]:
    """The two terms of `ranking.consistency`, without a ramp, since there is nothing to ramp against."""
    del progress

    def row_loss(similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        cross_modal, in_modal = ranking.configured_rows(similarity, scalars["scale"], config)
        total = config.lambda_cross * cross_modal + config.lambda_in * in_modal
        return total, {"cross_modal": cross_modal, "in_modal": in_modal}

    return batch.mean_loss(row_loss, outputs, key=key, config=config, mesh=mesh)
