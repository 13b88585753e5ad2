"""What JAX and its compiler are told of a platform: one place for all of it.

Variables are set before JAX is imported, and only where the user has not set them; options go with the training step.
"""

import importlib.metadata
import importlib.util
import logging
import os
import stat
from pathlib import Path
from typing import Any

from rankclip_jax.input_pipeline import memory

_LOGGER = logging.getLogger(__name__)

# The part of a GPU's memory that a process takes at its start; JAX's own default leaves a quarter unused.
MEMORY_SHARE = 0.92

# Options of the compiler for the training step, by platform: collectives run beside computation, and small ones of
# one kind are joined up to these sizes.
COMPILER_OPTIONS: dict[str, dict[str, Any]] = {
    "gpu": {
        "xla_gpu_enable_latency_hiding_scheduler": True,
        "xla_gpu_all_gather_combine_threshold_bytes": 128 * 2**20,
        "xla_gpu_reduce_scatter_combine_threshold_bytes": 128 * 2**20,
        "xla_gpu_all_reduce_combine_threshold_bytes": 128 * 2**20,
    },
    "tpu": {"xla_tpu_enable_latency_hiding_scheduler": True},
    "cpu": {},
}


def set_variables() -> None:
    """Tells JAX where to keep compiled programs and how much of a GPU's memory to take; JAX is not imported yet."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", str(MEMORY_SHARE))
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and (folder := _own_folder()):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)


def keep_freed_memory() -> None:
    """Where CPUs compute, memory that a program frees stays with the process for the next; JAX is not imported yet.

    The GNU C library otherwise gives a step's temporaries back after each step and has the kernel clear them before the
    next, a tenth to a fifth of its time (docs/benchmarks.md). What is kept can lie in pieces that no longer fit, and so
    grow to twice or thrice a step's need. Whoever has set that library's variables is left alone.
    """
    if memory.is_set_by_user() or _may_find_accelerators():
        return
    memory.tell_malloc((memory.M_ARENA_MAX, 1), (memory.M_MMAP_MAX, 0), (memory.M_TRIM_THRESHOLD, -1))


def give_freed_memory_back() -> None:
    """Where memory is short: what is large goes back to the system when it is freed, that library's default."""
    memory.tell_malloc((memory.M_MMAP_MAX, 65_536))


def _may_find_accelerators() -> bool:
    """Whether JAX, once it is imported, may compute elsewhere than on CPUs."""
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms:
        return platforms != "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return bool(plugins) or importlib.util.find_spec("libtpu") is not None


def set_variables_to_share() -> None:
    """Tells JAX to take of a GPU's memory only what it uses: another process works there too; not imported yet."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def set_variables_to_plan() -> None:
    """Tells JAX that no device is to be looked for: programs are compiled for others; JAX is not imported yet."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # a program for devices that are not here cannot be read back
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # there is no driver to check
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-16",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
    }


def _own_folder() -> Path | None:
    """The folder of compiled programs in the user's cache; None: there is none that is this user's alone.

    Whoever can write there can run code as the user.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rankclip_jax" / "programs"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.stat()
    except OSError as error:
        _LOGGER.info("compiled programs are not kept: %s", error)
        return None
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        _LOGGER.warning("%s can be written by others, so compiled programs are not kept. Run: chmod 700", folder)
        return None
    return folder
