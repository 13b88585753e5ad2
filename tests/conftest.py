"""All tests run on eight CPU devices; those that want fewer make a mesh of some."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"

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
