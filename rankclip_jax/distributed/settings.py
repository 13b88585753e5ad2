"""Settings of devices and processes: ``config.mesh`` and ``config.processes``."""

import dataclasses

from rankclip_jax.input_pipeline.setting import COUNT, MANY, PatternPairs, Range, Settings, setting


@dataclasses.dataclass(frozen=True)
class MeshSettings(Settings):
    """The devices in a grid; a batch is split over all of it."""

    section = "mesh"

    replica: int = setting(1, "copies of everything, across slow links", COUNT, fixed=False)
    data: int = setting(-1, "copies within them; -1: as many as the others leave", Range(-1, MANY), fixed=False)
    fsdp: int = setting(1, "devices that share one copy of weights and optimiser state", COUNT, fixed=False)
    overrides: tuple = setting(
        (),
        "(pattern, dimension) pairs: how arrays of these names are split; -1: not at all",
        PatternPairs(Range(-1, 8)),
        fixed=False,
    )


@dataclasses.dataclass(frozen=True)
class ProcessSettings(Settings):
    """How long processes wait for each other."""

    section = "processes"

    start_seconds: int = setting(
        300, "within which all processes of a run must have started", Range(1, 86_400), fixed=False
    )
    heartbeat_seconds: int = setting(
        30, "after which a silent process is given up, and the run ends", Range(1, 86_400), fixed=False
    )
    hang_seconds: float = setting(
        3600.0, "that a step, a batch, a save or an evaluation may take; 0: any", Range(0, 1e6), fixed=False
    )
