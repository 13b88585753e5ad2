"""The step as a program, compiled before anything is written, and whether it fits."""

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
    "Less memory is taken by a smaller --config.train.global_batch_size, by --config.model.remat=blocks, by "
    "--config.model.dtype=bfloat16, or by a smaller model (--config.model.name; ViT-demo is the smallest)."
)

_KEPT = 3  # times what a step needs: what a process may come to keep of it on CPUs, if it gives nothing back


def compile_step(experiment: Experiment, announce: bool) -> StepFunction:
    """The step, compiled for the run's shapes.

    Args:
      experiment: the run's parts.
      announce: say what is going on, and how long it took.

    Raises:
      UserError: it needs more memory than there is.
    """
    if announce:
        say("compiling the training step: seconds for a small model, about a minute for a large one")
    start = time.perf_counter()
    with ExplainMemory(experiment):
        compiled = _compile(experiment)
    needed = bytes_needed(compiled)
    if announce:
        say(
            f"compiled in {format_duration(time.perf_counter() - start)}; a step needs {needed / 2**30:.2f} GiB a "
            "device"
        )
    _check_device_memory(needed, experiment)
    _check_host_memory(needed - _bytes_of_state(experiment), experiment)
    return compiled


class ExplainMemory:
    """A context, entered any number of times, in which memory that runs out is said with what can be done about it.

    Args:
      experiment: the parts of the run, which are named.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._what = _what(experiment)

    def __enter__(self) -> None:
        """Nothing is different until memory runs out."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Raises UserError if it did."""
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error or ""):
            words = (str(error).splitlines() or ["no memory left"])[0]
            raise UserError(f"{self._what} does not fit in memory ({words[:200]}). {_ADVICE}") from error


def _bytes_of_state(experiment: Experiment) -> int:
    """What the state occupies on one device, which it does before the first step."""
    return bytes_per_device(abstract_state(experiment))


def _check_device_memory(needed: int, experiment: Experiment) -> None:
    limit = bytes_of_device()
    if limit is None or needed <= limit:
        return
    changes = find_fitting(experiment.config, lambda config: _needs(config, experiment) <= limit)
    advice = f"It fits with: {as_flags(changes)}" if changes else _ADVICE
    raise UserError(
        f"{_what(experiment)} needs {needed / 2**30:.1f} GiB on each device, which has {limit / 2**30:.1f}. {advice}"
    )


def bytes_of_device() -> int | None:
    """What programs may occupy on one of this process's devices; None: it does not say."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics.get("bytes_limit")


def _needs(config: ConfigDict, like: Experiment) -> int:
    """Bytes on one device of a step with other settings, on the same devices."""
    check(config, like.layout.mesh.size)
    return bytes_needed(_compile(build_experiment(config, like.layout.mesh, like.total_steps, like.examples)))


def _compile(experiment: Experiment) -> Any:
    program = make_step(experiment).lower(abstract_state(experiment), abstract_batch(experiment))
    return program.compile(compiler_options=COMPILER_OPTIONS[jax.default_backend()])


def _check_host_memory(needed: int, experiment: Experiment) -> None:
    """On the CPU a program that needs more than is left would not be refused, but be killed without a word."""
    if jax.default_backend() != "cpu":
        return
    needed *= len(experiment.layout.mesh.local_devices)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") + _reclaimable()
    if needed > there:
        raise UserError(
            f"{_what(experiment)} needs {needed / 2**30:.1f} GiB of memory beside the model's; this machine has "
            f"{there / 2**30:.1f} GiB left. {_ADVICE}"
        )
    if needed > there / _KEPT:
        give_freed_memory_back()


def _reclaimable() -> int:
    """Bytes of the host's memory that hold copies of files, which make room for programs."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            sizes = dict(line.split(":") for line in file)
        return 1024 * (int(sizes["MemAvailable"].split()[0]) - int(sizes["MemFree"].split()[0]))
    except (OSError, KeyError, ValueError):
        return 0


def _what(experiment: Experiment) -> str:
    config = experiment.config
    return f"config.train.global_batch_size: a step of {config.train.global_batch_size:,} pairs of {config.model.name}"
