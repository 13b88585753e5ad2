"""RankCLIP (Zhang et al., ICCV 2025): CLIP plus ranking consistency within and across modalities.

L = L_clip + w(progress) (lambda_cross L_cross + lambda_in L_in)
"""

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import batch, clip, ranking, schedules
from rankclip_jax.objectives.pairwise import Metrics, Scalars, Similarities


def loss(
    outputs: Outputs, *, progress: jax.Array, key: jax.Array, config: ConfigDict, mesh: Mesh | None
) -> tuple[jax.Array, Metrics]:
    """CLIP's loss plus the ramped ranking terms; see `ranking.consistency` for these."""
    weight = schedules.ramp(progress, *config.ramp)

    def row_loss(similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        contrastive = clip.contrastive_rows(similarity, scalars["scale"])
        cross_modal, in_modal = ranking.configured_rows(similarity, scalars["scale"], config)
        total = contrastive + scalars["weight"] * (config.lambda_cross * cross_modal + config.lambda_in * in_modal)
        return total, {"contrastive": contrastive, "cross_modal": cross_modal, "in_modal": in_modal}

    scalars = {"weight": weight}
    total, metrics = batch.mean_loss(row_loss, outputs, key=key, config=config, mesh=mesh, scalars=scalars)
    return total, metrics | {"ranking_weight": weight}
