"""The training objectives, by name; each is one file with its formula and one row of this table.

An objective is a function ``loss(outputs, *, progress, key, config, mesh) -> (loss, metrics)`` of

- ``outputs``: the model's, for the global batch, sharded over the mesh;
- ``progress``: the share of training done, in [0, 1];
- ``key``: the step's PRNG key;
- ``config``: the settings under ``config.objective``;
- ``mesh``: the devices, or None for no sharding;

and returns scalars: the loss over the global batch, and metrics by name.
"""

from collections.abc import Callable

import jax

from rankclip_jax.objectives import clip, cyclip, rankclip, ranking_alone, self_distillation, siglip, softclip
from rankclip_jax.objectives.pairwise import Metrics

Objective = Callable[..., tuple[jax.Array, Metrics]]

OBJECTIVES: dict[str, Objective] = {
    "clip": clip.loss,
    "siglip": siglip.loss,
    "cyclip": cyclip.loss,
    "softclip": softclip.loss,
    "self_distillation": self_distillation.loss,
    "rankclip": rankclip.loss,
    "ranking": ranking_alone.loss,
}
