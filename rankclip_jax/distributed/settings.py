"""The settings of devices and processes: ``config.mesh`` and ``config.processes``."""

import dataclasses

from rankclip_jax.input_pipeline.setting import COUNT, MANY, PatternPairs, Range, Settings, setting


@dataclasses.dataclass(frozen=True)
class MeshSettings(Settings):
    """The axes of the device mesh; a batch is split over all of them."""

    section = "mesh"

    replica: int = setting(
        1, "replicas of the whole state, across slow links between hosts or slices", COUNT, fixed=False
    )
    data: int = setting(
        -1,
        "data-parallel copies within each replica; -1: inferred from the number of devices",
        Range(-1, MANY),
        fixed=False,
    )
    fsdp: int = setting(1, "devices that share one copy of weights and optimizer state", COUNT, fixed=False)
    overrides: tuple = setting(
        (),
        "(pattern, dimension) pairs: the dimension to split of arrays whose name matches; -1: none",
        PatternPairs(Range(-1, 8)),
        fixed=False,
    )


@dataclasses.dataclass(frozen=True)
class ProcessSettings(Settings):
    """Timeouts of the processes of a run."""

    section = "processes"

    start_seconds: int = setting(300, "seconds to wait for all processes to start", Range(1, 86_400), fixed=False)
    heartbeat_seconds: int = setting(
        30,
        "seconds without a heartbeat after which a process counts as lost, and the run ends",
        Range(1, 86_400),
        fixed=False,
    )
    hang_seconds: float = setting(
        3600.0,
        "seconds that a step, a batch, a save or an evaluation may take; 0: no limit",
        Range(0, 1e6),
        fixed=False,
    )
