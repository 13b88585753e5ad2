"""A recipe on a topology: does it fit, what does it move, and how fast can it be at most."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rankclip_jax.distributed.platform import MEMORY_SHARE
from rankclip_jax.distributed.sharding import bytes_per_device
from rankclip_jax.planning import arithmetic, program
from rankclip_jax.planning.hardware import Accelerator
from rankclip_jax.planning.program import Collective
from rankclip_jax.planning.topology import Topology


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one step takes, on each device unless it says otherwise.

    Args:
      topology: the devices, by name.
      mesh: devices along each axis.
      settings: those that were planned with and change what is taken, by name.
      pairs: of a step, over all devices.
      bytes: ``parameters``, ``optimizer`` (and all else that is kept), ``batch``, ``temporaries``, ``total``,
        ``capacity``.
      flops: operations of products; ``useful_flops`` leaves out what is computed again.
      useful_flops: the same.
      memory_bytes: to and from memory, by the program's text.
      collectives: see `Collective`.
      seconds: the least that ``compute``, ``memory`` (of what is written) and ``network`` can take.
      peak_flops: of the device, for the type that is fastest.
      refusal: why the compiler refused the program; None: it did not.
    """

    topology: str
    mesh: dict[str, int]
    settings: dict[str, Any]
    pairs: int
    bytes: dict[str, int]
    flops: float = 0
    useful_flops: float = 0
    memory_bytes: int = 0
    collectives: Sequence[Collective] = ()
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    peak_flops: float = 0
    refusal: str | None = None

    @property
    def fits(self) -> bool:
        """Whether the program needs no more memory than there is."""
        return self.refusal is None and self.bytes["total"] <= self.bytes["capacity"]

    @property
    def step_seconds(self) -> float:
        """The least that a step can take, were compute, memory and network perfectly overlapped."""
        return max(self.seconds.values(), default=0.0)

    @property
    def pairs_per_second(self) -> float:
        """The most, over all devices."""
        return self.pairs / self.step_seconds if self.step_seconds else 0.0

    @property
    def mfu(self) -> float:
        """The largest share of the devices' peak that useful operations can reach."""
        return self.useful_flops / (self.step_seconds * self.peak_flops) if self.step_seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, under public names."""
        return {
            "topology": self.topology,
            "mesh": self.mesh,
            "settings": self.settings,
            "global_batch_size": self.pairs,
            "fits": self.fits,
            "refusal": self.refusal,
            "bytes": self.bytes,
            "flops": self.flops,
            "memory_bytes": self.memory_bytes,
            "collectives": [dataclasses.asdict(collective) for collective in self.collectives],
            "seconds": self.seconds,
            "step_seconds_bound": self.step_seconds,
            "pairs_per_second_bound": self.pairs_per_second,
            "mfu_bound": self.mfu,
        }


@dataclasses.dataclass(frozen=True)
class TracedStep:
    """A training step before it is compiled.

    Args:
      config: the settings.
      mesh: the devices.
      state: shapes, types and layout of what it changes; its ``parameters`` are told apart.
      batch: the same of what it reads.
      traced: JAX's trace of the step.
    """

    config: ConfigDict
    mesh: Mesh
    state: Any
    batch: Any
    traced: Any


Tracer = Callable[[ConfigDict, Sequence[jax.Device]], TracedStep]


def plan(config: ConfigDict, topology: Topology, trace: Tracer, capacity: int | None = None) -> Plan:
    """Compiles the training step for devices that need not be here, and reads what it takes.

    Args:
      config: the settings.
      topology: the devices.
      trace: from settings and devices to the step; raises UserError for settings that no run can have on them.
      capacity: bytes of memory of each device; None: the device's own.

    Raises:
      UserError: no run can have these settings on so many devices, or the compiler for them is not installed.
    """
    devices = topology.devices()
    step = trace(config, devices)
    usable = int((capacity or topology.accelerator.memory) * MEMORY_SHARE)
    useful = useful_flops(trace, config, devices)
    return plan_step(step, useful, topology.accelerator, topology.name, usable, topology.compiler_options)


def plan_step(
    step: TracedStep,
    useful: float,
    accelerator: Accelerator,
    name: str,
    capacity: int,
    options: dict[str, Any] | None = None,
) -> Plan:
    """The same for a step on any mesh, such as the devices that are here; ``useful`` is from `useful_flops`."""
    config = step.config
    sizes = {
        "parameters": bytes_per_device(step.state.parameters),
        "optimizer": bytes_per_device(step.state) - bytes_per_device(step.state.parameters),
        "batch": bytes_per_device(step.batch),
    }
    shown = {
        name: config[name.partition(".")[0]][name.partition(".")[2]]
        for name in ("model.name", "model.dtype", "model.remat", "train.accumulation", "objective.name")
    }
    common: dict[str, Any] = {
        "topology": name,
        "mesh": dict(step.mesh.shape),
        "settings": shown,
        "pairs": config.train.global_batch_size,
    }
    try:
        compiled = step.traced.lower().compile(compiler_options=options or {})
    except jax.errors.JaxRuntimeError as error:
        refusal = next(line for line in str(error).splitlines() if line.strip())[:300]
        return Plan(**common, bytes=sizes | {"capacity": capacity}, refusal=refusal)
    total = program.bytes_needed(compiled)
    text = compiled.as_text() or ""
    operations = arithmetic.flops(step.traced)
    moved = program.collectives(text, step.mesh)
    written = program.bytes_written(text)
    seconds = {
        "compute": compute_seconds(operations, accelerator),
        "memory": written / accelerator.bandwidth,
        "network": sum(network_seconds(collective, accelerator) for collective in moved),
    }
    return Plan(
        **common,
        bytes=sizes | {"temporaries": total - sum(sizes.values()), "total": total, "capacity": capacity},
        flops=sum(operations.values()),
        useful_flops=useful,
        memory_bytes=2 * written,  # what is written is read again, if not from a cache
        collectives=moved,
        seconds=seconds,
        peak_flops=accelerator.flops["bfloat16"],
    )


def useful_flops(trace: Tracer, config: ConfigDict, devices: Sequence[jax.Device]) -> float:
    """Operations of a step in which nothing is computed again."""
    config = config.copy_and_resolve_references()
    config.model.remat, config.model.attention, config.train.accumulation = "none", "xla", 1
    return sum(arithmetic.flops(trace(config, devices).traced).values())


def compute_seconds(operations: Counter[str], accelerator: Accelerator) -> float:
    """The least that products can take at the device's peaks."""
    return sum(count / accelerator.flops.get(kind, accelerator.flops["float32"]) for kind, count in operations.items())


def network_seconds(collective: Collective, accelerator: Accelerator) -> float:
    """The least that a collective can take: each byte passes the slowest link that it must, all devices sharing it.

    In a ring of n each device sends ``(n - 1) / n`` of what is gathered or scattered, and twice that of what is summed
    everywhere. Where it crosses hosts, those of one host send a part each.
    """
    passes = 2 if collective.kind == "all-reduce" else 1
    inside = passes * collective.bytes * (1 - 1 / collective.devices) / accelerator.link
    here = collective.devices // collective.hosts
    across = passes * collective.bytes * (1 - 1 / collective.hosts) / (max(here, 1) * accelerator.network)
    return max(across, inside if here > 1 else 0.0)
