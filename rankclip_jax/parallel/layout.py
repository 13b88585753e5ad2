"""The devices of a run, and how its state and its batches lie on them."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"

# (pattern, specification) pairs: the first pattern that is found in a leaf's path says how the leaf is split.
Rules = tuple[tuple[str, PartitionSpec], ...]
REPLICATED: Rules = (("", PartitionSpec()),)


def make_mesh() -> Mesh:
    """All devices of all processes, in one axis over which the batch is split."""
    return jax.make_mesh((jax.device_count(),), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def make_local_mesh() -> Mesh:
    """The devices of this process alone."""
    return Mesh(np.asarray(jax.local_devices()), (DATA_AXIS,), axis_types=(AxisType.Auto,))


@dataclasses.dataclass(frozen=True)
class Layout:
    """How everything lies on a mesh: rows over all its axes, a state by its rules, the rest on every device.

    Args:
      mesh: the devices.
      rules: how a state is split.
    """

    mesh: Mesh
    rules: Rules = REPLICATED

    @functools.cached_property
    def rows(self) -> NamedSharding:
        """The leading axis is split over all devices."""
        return NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))

    @functools.cached_property
    def replicated(self) -> NamedSharding:
        """Every device holds the whole array."""
        return NamedSharding(self.mesh, PartitionSpec())

    def state(self, tree: Any) -> Any:
        """The sharding of each leaf of a state, or of its shapes, by the rules."""

        def sharding(path: tuple, leaf: object) -> NamedSharding:
            del leaf
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            return NamedSharding(self.mesh, next(spec for pattern, spec in self.rules if re.search(pattern, name)))

        return jax.tree_util.tree_map_with_path(sharding, tree)

    def describe(self, shapes: Any) -> Any:
        """The shapes and types of a state with the sharding of each leaf, to compile for or to restore to."""
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            self.state(shapes),
        )

    def put_rows(self, rows: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """This process's rows of a global batch, to global arrays.

        Which of the global rows these are depends on how the mesh orders the processes' devices: what must know carries
        a number in each row.
        """
        return {name: jax.make_array_from_process_local_data(self.rows, part) for name, part in rows.items()}

    def put_same_rows(self, rows: np.ndarray) -> jax.Array:
        """Rows that every process holds all of, to a global array."""
        return jax.make_array_from_callback(rows.shape, self.rows, lambda part: rows[part])
