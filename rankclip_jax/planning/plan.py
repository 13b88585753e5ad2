"""The plan of a training step on a topology: whether it fits, its traffic, and upper bounds of its speed."""

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
    """The memory, traffic and speed of one step, per device unless stated otherwise.

    Args:
      topology: the devices, by name.
      mesh: number of devices along each mesh axis.
      settings: the planned settings that affect the result, by name.
      pairs: global batch size.
      bytes: ``parameters``, ``optimizer`` (and the rest of the state), ``batch``, ``temporaries``, ``total``,
        ``capacity``.
      flops: FLOPs of matrix products.
      useful_flops: FLOPs of matrix products without recomputation.
      memory_bytes: bytes to and from memory, estimated from the program's text.
      collectives: see `Collective`.
      seconds: lower bounds for ``compute``, ``memory`` (of what is written) and ``network``.
      peak_flops: the device's peak FLOP/s for its fastest dtype.
      refusal: the compiler's error; None: the program compiles.
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
        """Whether the program fits in memory."""
        return self.refusal is None and self.bytes["total"] <= self.bytes["capacity"]

    @property
    def step_seconds(self) -> float:
        """The lower bound of a step's time, with perfect overlap of compute, memory and network."""
        return max(self.seconds.values(), default=0.0)

    @property
    def pairs_per_second(self) -> float:
        """The upper bound of the throughput over all devices."""
        return self.pairs / self.step_seconds if self.step_seconds else 0.0

    @property
    def mfu(self) -> float:
        """The upper bound of the model FLOPs utilisation (MFU)."""
        return self.useful_flops / (self.step_seconds * self.peak_flops) if self.step_seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns the plan as plain values under public names."""
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
      state: shapes, dtypes and shardings of the training state, with an attribute ``parameters``.
      batch: shapes, dtypes and shardings of the batch.
      traced: JAX's trace of the step.
    """

    config: ConfigDict
    mesh: Mesh
    state: Any
    batch: Any
    traced: Any


Tracer = Callable[[ConfigDict, Sequence[jax.Device]], TracedStep]


def plan(config: ConfigDict, topology: Topology, trace: Tracer, capacity: int | None = None) -> Plan:
    """Compiles the training step for devices that need not be attached, and returns its plan.

    Args:
      config: the settings.
      topology: the devices.
      trace: traces the step of settings on devices; raises UserError for invalid settings.
      capacity: bytes of memory per device; None: the device's own.

    Raises:
      UserError: the settings are invalid for this number of devices, or their compiler is not installed.
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
    """Returns the plan of a step on any mesh, such as the attached devices; ``useful`` is from `useful_flops`."""
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
        memory_bytes=2 * written,  # written data are read once, unless from a cache
        collectives=moved,
        seconds=seconds,
        peak_flops=accelerator.flops["bfloat16"],
    )


def useful_flops(trace: Tracer, config: ConfigDict, devices: Sequence[jax.Device]) -> float:
    """Returns the FLOPs of a step without recomputation."""
    config = config.copy_and_resolve_references()
    config.model.remat, config.model.attention, config.train.accumulation = "none", "xla", 1
    return sum(arithmetic.flops(trace(config, devices).traced).values())


def compute_seconds(operations: Counter[str], accelerator: Accelerator) -> float:
    """Returns the time of matrix products at the device's peak rates, a lower bound."""
    return sum(count / accelerator.flops.get(kind, accelerator.flops["float32"]) for kind, count in operations.items())


def network_seconds(collective: Collective, accelerator: Accelerator) -> float:
    """Returns a lower bound of a collective's time, from the slowest link that its bytes must cross.

    In a ring of n devices, each sends ``(n - 1) / n`` of the bytes of an all-gather or reduce-scatter, and twice that
    for an all-reduce. Across hosts, the devices of a host share the bytes to send.
    """
    passes = 2 if collective.kind == "all-reduce" else 1
    inside = passes * collective.bytes * (1 - 1 / collective.devices) / accelerator.link
    per_host = collective.devices // collective.hosts
    across = passes * collective.bytes * (1 - 1 / collective.hosts) / (max(per_host, 1) * accelerator.network)
    return max(across, inside if per_host > 1 else 0.0)
