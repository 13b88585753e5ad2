"""Compilation of the training step before anything is written, and the check that it fits in memory."""

import os
import time
from types import TracebackType
from typing import Any

import jax
from ml_collections import ConfigDict

from rankclip_jax.cli.console import format_duration, say
from rankclip_jax.distributed.platform import COMPILER_OPTIONS, give_freed_memory_back
from rankclip_jax.distributed.sharding import bytes_per_device
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.planning.program import bytes_needed
from rankclip_jax.planning.search_space import as_flags, find_fitting
from rankclip_jax.training.experiment import Experiment, build_experiment, check
from rankclip_jax.training.state import abstract_state
from rankclip_jax.training.step import StepFunction, abstract_batch, make_step

_ADVICE = (
    "To reduce memory, use a smaller --config.train.global_batch_size, --config.model.remat=blocks, "
    "--config.model.dtype=bfloat16, or a smaller model (--config.model.name; ViT-demo is the smallest)."
)

_KEPT = 3  # peak memory of a process on CPUs as a multiple of a step's, if the allocator returns no freed memory


def compile_step(experiment: Experiment, announce: bool) -> StepFunction:
    """Compiles the training step for the run's shapes.

    Args:
      experiment: the experiment.
      announce: whether to print progress and the time that compilation took.

    Raises:
      UserError: the step does not fit in memory.
    """
    if announce:
        say("compiling the training step: seconds for a small model, about a minute for a large one")
    start = time.perf_counter()
    with ExplainMemory(experiment):
        compiled = _compile(experiment)
    needed = bytes_needed(compiled)
    if announce:
        say(
            f"compiled in {format_duration(time.perf_counter() - start)}; a step needs {needed / 2**30:.2f} GiB per "
            "device"
        )
    _check_device_memory(needed, experiment)
    _check_host_memory(needed - _bytes_of_state(experiment), experiment)
    return compiled


class ExplainMemory:
    """A reusable context that turns out-of-memory errors into a UserError with advice.

    Args:
      experiment: the experiment, whose batch size and model the error names.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._description = _describe_step(experiment)

    def __enter__(self) -> None:
        """Does nothing; errors are handled on exit."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Raises UserError if the error means that memory ran out."""
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error or ""):
            words = (str(error).splitlines() or ["no memory left"])[0]
            raise UserError(f"{self._description} is out of memory ({words[:200]}). {_ADVICE}") from error


def _bytes_of_state(experiment: Experiment) -> int:
    """Returns the bytes of the state on one device, which are allocated before the first step."""
    return bytes_per_device(abstract_state(experiment))


def _check_device_memory(needed: int, experiment: Experiment) -> None:
    limit = bytes_of_device()
    if limit is None or needed <= limit:
        return
    changes = find_fitting(experiment.config, lambda config: _needs(config, experiment) <= limit)
    advice = f"It fits with: {as_flags(changes)}" if changes else _ADVICE
    raise UserError(
        f"{_describe_step(experiment)} needs {needed / 2**30:.1f} GiB on each device; expected at most "
        f"{limit / 2**30:.1f} GiB. {advice}"
    )


def bytes_of_device() -> int | None:
    """Returns the bytes that programs may allocate on one of this process's devices; None: unknown."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics.get("bytes_limit")


def _needs(config: ConfigDict, like: Experiment) -> int:
    """Returns the bytes per device of a step with other settings on the same devices."""
    check(config, like.layout.mesh.size)
    return bytes_needed(_compile(build_experiment(config, like.layout.mesh, like.total_steps, like.examples)))


def _compile(experiment: Experiment) -> Any:
    program = make_step(experiment).lower(abstract_state(experiment), abstract_batch(experiment))
    return program.compile(compiler_options=COMPILER_OPTIONS[jax.default_backend()])


def _check_host_memory(needed: int, experiment: Experiment) -> None:
    """Raises UserError if a step on CPUs needs more memory than is free: the OS would kill it without a message."""
    if jax.default_backend() != "cpu":
        return
    needed *= len(experiment.layout.mesh.local_devices)
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") + _reclaimable()
    if needed > available:
        raise UserError(
            f"{_describe_step(experiment)} needs {needed / 2**30:.1f} GiB of memory besides parameters and "
            f"optimizer state; this machine has {available / 2**30:.1f} GiB free. {_ADVICE}"
        )
    if needed > available / _KEPT:
        give_freed_memory_back()


def _reclaimable() -> int:
    """Returns the bytes of the host's memory in the page cache, which programs can reclaim."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            sizes = dict(line.split(":") for line in file)
        return 1024 * (int(sizes["MemAvailable"].split()[0]) - int(sizes["MemFree"].split()[0]))
    except (OSError, KeyError, ValueError):
        return 0


def _describe_step(experiment: Experiment) -> str:
    config = experiment.config
    return f"config.train.global_batch_size: a step of {config.train.global_batch_size:,} pairs of {config.model.name}"
