"""Sums that go back to the devices that own the parts, over processes: Gloo's own are wrong now and then."""

import sys

from tests.launch.test_launch import launch

# Whole numbers, so that sums are exact in any order; parts of 12 MiB, as large as the demo's table of words.
PROGRAM = """
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from ml_collections import ConfigDict
from rankclip_jax.distributed import start_up
from rankclip_jax.distributed.collectives import all_gather

start_up.start(ConfigDict({"start_seconds": 60, "heartbeat_seconds": 60}))
mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
rows, shape = PartitionSpec("fsdp"), (1024, 6144)
numbers = jnp.arange(shape[0] * shape[1], dtype=jnp.float32).reshape(shape) % 97

def loss(part):
    return jnp.sum(all_gather(part, "fsdp", 0) * (numbers + jax.lax.axis_index("fsdp")))

gradient = jax.jit(jax.shard_map(jax.grad(loss), mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False))
ones = jax.jit(lambda: jnp.ones(shape), out_shardings=NamedSharding(mesh, rows))()
parts = [part for _ in range(10) for part in gradient(ones).addressable_shards]
assert len(parts) == 10 and parts[0].data.shape == (512, 6144)
assert all((part.data == (2 * numbers + 1)[part.index]).all() for part in parts)
"""


def test_gradients_of_parts_gathered_over_processes_are_exact():
    launch("local.sh", "4", "env", "JAX_PLATFORMS=cpu", "JAX_NUM_CPU_DEVICES=1", sys.executable, "-c", PROGRAM)
