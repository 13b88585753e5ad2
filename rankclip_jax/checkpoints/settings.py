"""The settings of checkpoints, under ``config.checkpoint``."""

import dataclasses

from rankclip_jax.input_pipeline.setting import COUNT, COUNT_OR_ZERO, Range, Settings, setting


@dataclasses.dataclass(frozen=True)
class CheckpointSettings(Settings):
    """When to save checkpoints, and which to keep."""

    section = "checkpoint"

    every_steps: int = setting(1000, "steps between two checkpoints", COUNT, fixed=False)
    every_minutes: float = setting(
        0.0, "minutes between two checkpoints, in addition; 0: only by steps", Range(0, 1e5), fixed=False
    )
    patience_seconds: float = setting(
        5.0, "seconds after a signal before an evaluation or a wait for data is interrupted", Range(0, 1e5), fixed=False
    )
    deadline_seconds: float = setting(
        240.0,
        "seconds after a signal until the process exits, with the last saved checkpoint",
        Range(1, 1e5),
        fixed=False,
    )
    max_save_failures: int = setting(5, "failed saves after which the run stops", COUNT, fixed=False)
    keep: int = setting(3, "number of newest checkpoints to keep", Range(1, 10**6), fixed=False)
    keep_every_steps: int = setting(
        0, "also keep a checkpoint every so many steps permanently; 0: none", COUNT_OR_ZERO, fixed=False
    )
