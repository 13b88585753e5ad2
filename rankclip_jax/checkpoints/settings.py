"""Settings of checkpoints, under ``config.checkpoint``."""

import dataclasses

from rankclip_jax.input_pipeline.setting import COUNT, COUNT_OR_ZERO, Range, Settings, setting


@dataclasses.dataclass(frozen=True)
class CheckpointSettings(Settings):
    """When checkpoints are saved, and which are kept."""

    section = "checkpoint"

    every_steps: int = setting(1000, "steps between two checkpoints", COUNT, fixed=False)
    every_minutes: float = setting(0.0, "minutes between two, as well; 0: by steps alone", Range(0, 1e5), fixed=False)
    patience_seconds: float = setting(
        5.0, "after a signal, before an evaluation or a wait for data is interrupted", Range(0, 1e5), fixed=False
    )
    deadline_seconds: float = setting(
        240.0, "after a signal, to exit with what was saved before", Range(1, 1e5), fixed=False
    )
    max_save_failures: int = setting(5, "failed saves after which the run stops", COUNT, fixed=False)
    keep: int = setting(3, "newest checkpoints to keep", Range(1, 10**6), fixed=False)
    keep_every_steps: int = setting(
        0, "keep one every so many steps for good, besides; 0: none", COUNT_OR_ZERO, fixed=False
    )
