"""How the state of a run and its batches lie on the devices of a mesh."""

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

# (pattern, dimension) pairs: the first whose pattern is in an array's name says which dimension is split; -1: none.
Overrides = tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Rows lie over all axes of a mesh, arrays of a state over its axis ``fsdp``, the rest on every device.

    An array is split along its longest dimension that the axis divides (the last of equals), whatever it is: a weight,
    a moment of the optimiser. One without such a dimension is on every device.

    Args:
      mesh: the devices.
      overrides: what is split otherwise.
    """

    mesh: Mesh
    overrides: Overrides = ()

    @functools.cached_property
    def rows(self) -> NamedSharding:
        """The leading axis is split over all devices."""
        return NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))

    @functools.cached_property
    def replicated(self) -> NamedSharding:
        """Every device holds the whole array."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def shards(self) -> int:
        """Parts that a state is split into."""
        return self.mesh.shape.get(FSDP, 1)

    def split_dimension(self, name: str, shape: tuple[int, ...]) -> int | None:
        """The dimension along which an array of a state is split; None: every device holds it.

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
                        f"into {self.shards} parts. Name another dimension, or -1 to keep it whole."
                    )
                return dimension
        fitting = [(size, place) for place, size in enumerate(shape) if size % self.shards == 0]
        return max(fitting)[1] if fitting else None

    def specification(self, name: str, shape: tuple[int, ...]) -> PartitionSpec:
        """The same as JAX puts it."""
        dimension = self.split_dimension(name, shape)
        return PartitionSpec() if dimension is None else PartitionSpec(*[None] * dimension, FSDP)

    def specifications(self, tree: Any) -> Any:
        """For each array of a state, or its shape, how it is split."""
        return jax.tree_util.tree_map_with_path(lambda path, x: self.specification(name_of(path), x.shape), tree)

    def state(self, tree: Any) -> Any:
        """The sharding of each array of a state, or of its shapes."""
        return jax.tree.map(lambda specification: NamedSharding(self.mesh, specification), self.specifications(tree))

    def describe(self, shapes: Any) -> Any:
        """The shapes and types of a state with the sharding of each leaf, to compile for or to restore to."""
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            self.state(shapes),
        )

    def check_overrides(self, tree: Any) -> None:
        """Raises UserError if an override is for no array of the state."""
        names = [name_of(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
        for pattern, _ in self.overrides:
            if not any(re.search(pattern, name) for name in names):
                raise UserError(
                    f"config.mesh.overrides: no array of the state has a name with {pattern!r}; names are such as "
                    f"{names[1]}."
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


def name_of(path: tuple) -> str:
    """An array's name in a state, such as ``parameters/vision/transformer/blocks/mlp_in/kernel``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def bytes_per_device(described: Any) -> int:
    """What arrays occupy on one device, by their shapes, types and shardings."""
    return sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=np.int64)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(described)
    )


def table(arrays: Any, layout: Layout) -> str:
    """How each array of a state lies, a line each: its name, shape, split and bytes on one device."""
    lines = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(arrays)[0]:
        dimension = layout.split_dimension(name_of(path), leaf.shape)
        shape = [
            f"{size}/{layout.shards}" if place == dimension else f"{size}" for place, size in enumerate(leaf.shape)
        ]
        own = leaf.size * leaf.dtype.itemsize / (1 if dimension is None else layout.shards)
        lines.append((name_of(path), f"[{', '.join(shape)}]", f"{own / 2**20:.3f} MiB"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ("  ".join(f"{word:<{width}}" for word, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(f"  {row.rstrip()}" for row in rows)
