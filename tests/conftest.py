"""All tests run on eight CPU devices; those that want fewer make a mesh of some."""

import ctypes
import gc
import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
# Programs are compiled once for all tests and workers, and for the next run of the suite.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Tests compile much and compute little. What is exact, and what the README shows, is tested as users run it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")

import jax
import numpy as np
import pytest
from jax.sharding import Mesh


@pytest.fixture
def mesh_of():
    """Makes a data-parallel mesh of the first ``n`` devices."""

    def make(count: int) -> Mesh:
        return Mesh(np.asarray(jax.devices()[:count]), ("data",))

    return make


@pytest.fixture(scope="module", autouse=True)
def released_programs():
    """Programs of one module's tests are of no use to the next's, and take gigabytes together."""
    yield
    jax.clear_caches()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests begin first, each on a worker of its own: xdist hands each of two workers half of the list."""
    longest = [item for item in items if item.get_closest_marker("longest")]
    others = [item for item in items if item not in longest]
    half = len(others) // 2
    items[:] = [*longest[:1], *others[:half], *longest[1:], *others[half:]]
