"""How the training state and batches are sharded over a mesh."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rankclip_jax.distributed.mesh import FSDP
from rankclip_jax.input_pipeline.errors import UserError

# (pattern, dimension) pairs: the first pattern that matches an array's name gives the dimension to split; -1: none.
Overrides = tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The sharding of a run: rows over all mesh axes, arrays of the state over ``fsdp``, the rest replicated.

    Each array of the state, weight or optimizer moment, is split along its longest dimension that the size of ``fsdp``
    divides (the last of equals). An array without such a dimension is replicated.

    Args:
      mesh: the devices.
      overrides: exceptions, as (pattern, dimension) pairs.
    """

    mesh: Mesh
    overrides: Overrides = ()

    @functools.cached_property
    def rows(self) -> NamedSharding:
        """The sharding that splits the leading axis over all devices."""
        return NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))

    @functools.cached_property
    def replicated(self) -> NamedSharding:
        """The sharding that replicates an array on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def shards(self) -> int:
        """The number of shards of the state."""
        return self.mesh.shape.get(FSDP, 1)

    def split_dimension(self, name: str, shape: tuple[int, ...]) -> int | None:
        """Returns the dimension along which an array of the state is split, or None if it is replicated.

        Raises:
          UserError: an override names a dimension that cannot be split.
        """
        if self.shards == 1:
            return None
        for pattern, dimension in self.overrides:
            if re.search(pattern, name):
                if dimension < 0 or not shape:
                    return None
                if dimension >= len(shape) or shape[dimension] % self.shards:
                    raise UserError(
                        f"config.mesh.overrides: {name}, {list(shape)}, cannot be split along dimension {dimension} "
                        f"into {self.shards} parts. Use another dimension, or -1 to replicate it."
                    )
                return dimension
        candidates = [(size, axis) for axis, size in enumerate(shape) if size % self.shards == 0]
        return max(candidates)[1] if candidates else None

    def specification(self, name: str, shape: tuple[int, ...]) -> PartitionSpec:
        """Returns the same as a `PartitionSpec`."""
        dimension = self.split_dimension(name, shape)
        return PartitionSpec() if dimension is None else PartitionSpec(*[None] * dimension, FSDP)

    def specifications(self, tree: Any) -> Any:
        """Returns the `PartitionSpec` of each array of a state, or of its abstract shapes."""
        return jax.tree_util.tree_map_with_path(lambda path, x: self.specification(name_of(path), x.shape), tree)

    def state(self, tree: Any) -> Any:
        """Returns the sharding of each array of a state, or of its abstract shapes."""
        return jax.tree.map(lambda specification: NamedSharding(self.mesh, specification), self.specifications(tree))

    def describe(self, shapes: Any) -> Any:
        """Returns the abstract state with the sharding of each leaf, to compile for or to restore into."""
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            self.state(shapes),
        )

    def check_overrides(self, tree: Any) -> None:
        """Raises UserError if an override matches no array of the state."""
        names = [name_of(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
        for pattern, _ in self.overrides:
            if not any(re.search(pattern, name) for name in names):
                raise UserError(
                    f"config.mesh.overrides: {pattern!r} matches no array of the state. Use a pattern of names "
                    f"such as {names[1]}."
                )

    def put_rows(self, rows: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Builds global arrays from this process's rows of a global batch.

        The global position of these rows depends on how the mesh orders the processes' devices. Code that needs it
        stores an index in each row.
        """
        return {name: jax.make_array_from_process_local_data(self.rows, part) for name, part in rows.items()}

    def put_same_rows(self, rows: np.ndarray) -> jax.Array:
        """Builds a global array from rows that every process holds in full."""
        return jax.make_array_from_callback(rows.shape, self.rows, lambda part: rows[part])


def name_of(path: tuple) -> str:
    """Returns an array's name in the state, such as ``parameters/vision/transformer/blocks/mlp_in/kernel``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def bytes_per_device(described: Any) -> int:
    """Returns the bytes that arrays occupy on one device, from their shapes, dtypes and shardings."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=np.int64)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(described)
    )


def table(arrays: Any, layout: Layout) -> str:
    """Returns a table of the arrays of a state: name, shape, split and bytes per device."""
    lines = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(arrays)[0]:
        dimension = layout.split_dimension(name_of(path), leaf.shape)
        shape = [f"{size}/{layout.shards}" if axis == dimension else f"{size}" for axis, size in enumerate(leaf.shape)]
        local_bytes = leaf.size * leaf.dtype.itemsize / (1 if dimension is None else layout.shards)
        lines.append((name_of(path), f"[{', '.join(shape)}]", f"{local_bytes / 2**20:.3f} MiB"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ("  ".join(f"{word:<{width}}" for word, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(f"  {row.rstrip()}" for row in rows)
