"""All environment variables and compiler options that the system sets for a platform.

Environment variables are set before JAX is imported, unless the user has set them. Compiler options are passed when the
training step is compiled.
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

# The fraction of a GPU's memory that a process preallocates; JAX's default of 0.75 leaves a quarter unused.
MEMORY_SHARE = 0.92

# Compiler options for the training step, by platform: overlap collectives with computation, and combine small
# collectives of one kind up to these sizes.
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
    """Sets JAX's compilation cache and its fraction of GPU memory; call it before importing JAX."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", str(MEMORY_SHARE))
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and (folder := _own_folder()):
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)


def keep_freed_memory() -> None:
    """On CPUs, makes malloc keep freed memory for the next step; call it before importing JAX.

    Otherwise the GNU C library returns a step's temporaries after each step, and the kernel clears them before the
    next, which takes a tenth to a fifth of the step time (docs/benchmarks.md). Because of fragmentation, the kept
    memory can grow to two or three times what a step needs. Does nothing if the user has set malloc's variables.
    """
    if memory.is_set_by_user() or _may_find_accelerators():
        return
    memory.tell_malloc((memory.M_ARENA_MAX, 1), (memory.M_MMAP_MAX, 0), (memory.M_TRIM_THRESHOLD, -1))


def give_freed_memory_back() -> None:
    """Restores malloc's default of returning large freed blocks to the system, for when memory is short."""
    memory.tell_malloc((memory.M_MMAP_MAX, 65_536))


def _may_find_accelerators() -> bool:
    """Whether JAX may find an accelerator when it is imported."""
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms:
        return platforms != "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return bool(plugins) or importlib.util.find_spec("libtpu") is not None


def set_variables_to_share() -> None:
    """Turns off GPU memory preallocation, to share the GPU with another process; call it before importing JAX."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def set_variables_to_plan() -> None:
    """Configures JAX to compile for devices of other machines without using any; call it before importing JAX."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # programs for absent devices cannot be loaded
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # no driver is installed
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-16",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
    }


def _own_folder() -> Path | None:
    """Returns the compilation cache in the user's cache folder, or None if other users can write to it.

    Anyone who can write to it can run code as the user.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rankclip_jax" / "programs"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
    except OSError as error:
        _LOGGER.info("the compilation cache is off: %s", error)
        return None
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        _LOGGER.warning(
            "the compilation cache is off, since other users can write to %s. Run: chmod 700 %s", folder, folder
        )
        return None
    return folder
