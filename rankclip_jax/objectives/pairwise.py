"""Means over the rows of pairwise losses, without ever holding a square of the batch.

Every objective here is a mean over the rows of the global batch of some function of that row's similarities to
all columns. So each device takes its own rows, in chunks, against all columns (one all-gather of each
modality), and walks each chunk forward and backward at once: with ``r`` the chunk's rows and ``C`` the columns,

    loss = sum_chunks f(r, C) / B        dr = df/dr        dC = sum_chunks df/dC

where ``dC`` is summed on the way and handed back to the rows' owners by one reduce-scatter. What is kept
between the passes is one gradient per embedding, ``[B / devices, D]``; a chunk's ``[chunk, B]`` arrays die with
the chunk. The backward pass only scales the kept gradients.

Columns are visited in an order drawn from ``key``, the same on every device: a stable sort of a chunk's rows then
breaks ties at random.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

# Working memory of one chunk, and how many [chunk, columns] arrays it was measured to hold at its peak.
CHUNK_BYTES = 64 * 2**20
CHUNK_ARRAYS = 12

Embeddings = Mapping[str, jax.Array]
Scalars = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]


class Similarities:
    """Dot products of a chunk of rows with all columns, each computed once, when first asked for."""

    def __init__(self, rows: Embeddings, columns: Embeddings, own: jax.Array) -> None:
        self._rows = rows
        self._columns = columns
        self.own = own  # bool [chunk, B]: where a column is the row's own pair
        self._products: dict[tuple[str, str], jax.Array] = {}

    def __call__(self, row: str, column: str) -> jax.Array:
        """Similarity of each row of one kind to every column of another: ``[chunk, B]``."""
        if (row, column) not in self._products:
            self._products[row, column] = jnp.matmul(
                self._rows[row], self._columns[column].T, precision=jax.lax.Precision.HIGHEST
            )
        return self._products[row, column]

    def paired(self, row: str, column: str) -> jax.Array:
        """Similarity of the two kinds within each row's own pair: ``[chunk]``."""
        return jnp.sum(self._rows[row] * self._rows[column], axis=-1)


RowLoss = Callable[[Similarities, Scalars], tuple[jax.Array, Metrics]]


def mean_over_rows(
    row_loss: RowLoss,
    embeddings: Embeddings,
    scalars: Scalars,
    *,
    key: jax.Array | None = None,
    mesh: Mesh | None = None,
    chunk_size: int | None = None,
) -> tuple[jax.Array, Metrics]:
    """The mean over all rows of ``row_loss``, with exact gradients, in memory linear in the batch.

    Args:
      row_loss: from a chunk's `Similarities` and the scalars to a loss ``[chunk]`` and metrics, each ``[chunk]``.
      embeddings: name to ``[B, D]``, sharded over the mesh; gradients reach them and the scalars.
      scalars: name to ``[]``, whatever else the loss depends on.
      key: orders the columns at random, and so breaks ties.
      mesh: the devices that share the rows; None: no sharding.
      chunk_size: rows handled at once by a device; None: as many as `CHUNK_BYTES` has room for.

    Returns:
      The mean loss and the means of the metrics, scalars; no gradient flows through the metrics.
    """
    size = next(iter(embeddings.values())).shape[0]
    dtype = jnp.promote_types(next(iter(embeddings.values())).dtype, jnp.float32)
    embeddings = {name: value.astype(dtype) for name, value in embeddings.items()}
    scalars = {name: jnp.asarray(value, dtype) for name, value in scalars.items()}
    order = None if key is None else jax.random.permutation(key, size)

    axes = () if mesh is None else mesh.axis_names
    local_size = size // (1 if mesh is None else mesh.size)
    chunk = min(chunk_size or max(1, CHUNK_BYTES // (CHUNK_ARRAYS * dtype.itemsize * size)), local_size)

    def over_devices(with_gradients: bool) -> Callable:
        local = functools.partial(_local_mean, row_loss, size, chunk, axes, with_gradients)
        if mesh is None:
            return local
        sharded, replicated = PartitionSpec(axes), PartitionSpec()
        gradients = (sharded, replicated) if with_gradients else None
        return jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(sharded, replicated, replicated),
            out_specs=((replicated, replicated), gradients),
            check_vma=False,
        )

    @jax.custom_vjp
    def mean(embeddings: Embeddings, scalars: Scalars, order: jax.Array | None) -> tuple[jax.Array, Metrics]:
        return over_devices(with_gradients=False)(embeddings, scalars, order)[0]

    def forward(embeddings: Embeddings, scalars: Scalars, order: jax.Array | None) -> tuple:
        return over_devices(with_gradients=True)(embeddings, scalars, order)

    def backward(gradients: tuple, cotangents: tuple) -> tuple:
        scaled = jax.tree.map(lambda gradient: cotangents[0] * gradient, gradients)
        return *scaled, None

    mean.defvjp(forward, backward)
    return mean(embeddings, scalars, order)


def _local_mean(
    row_loss: RowLoss,
    size: int,
    chunk: int,
    axes: tuple[str, ...],
    with_gradients: bool,
    rows: Embeddings,
    scalars: Scalars,
    order: jax.Array | None,
) -> tuple[Any, Any]:
    """One device's part: ``((loss, metrics), (row gradients, scalar gradients) or None)``."""
    columns = jax.tree.map(lambda x: jax.lax.all_gather(x, axes, tiled=True) if axes else x, rows)
    if order is not None:
        columns = jax.tree.map(lambda x: x[order], columns)

    local_size = next(iter(rows.values())).shape[0]
    first = jax.lax.axis_index(axes) * local_size if axes else 0
    column_numbers = jnp.arange(size) if order is None else order

    def chunk_loss(numbers: jax.Array, rows: Embeddings, columns: Embeddings, scalars: Scalars) -> tuple[Any, Any]:
        own = column_numbers == (first + numbers)[:, None]
        loss, metrics = row_loss(Similarities(rows, columns, own), scalars)
        valid = numbers < local_size
        return jax.tree.map(lambda value: jnp.sum(jnp.where(valid, value, 0)) / size, (loss, metrics))

    def forward_only(total: tuple, chunk: tuple) -> tuple:
        rows, numbers = chunk
        return jax.tree.map(jnp.add, total, chunk_loss(numbers, rows, columns, scalars)), None

    def forward_and_backward(carry: tuple, chunk: tuple) -> tuple:
        rows, numbers = chunk
        loss, backward, metrics = jax.vjp(functools.partial(chunk_loss, numbers), rows, columns, scalars, has_aux=True)
        row_gradients, column_gradients, scalar_gradients = backward(jnp.ones_like(loss))
        step = ((loss, metrics), column_gradients, scalar_gradients)
        return jax.tree.map(jnp.add, carry, step), row_gradients

    chunks = _split(rows, local_size, chunk)
    zeros = functools.partial(jax.tree.map, jnp.zeros_like)
    rows_of_first, numbers_of_first = jax.tree.map(lambda x: x[0], chunks)
    zero_total = zeros(jax.eval_shape(chunk_loss, numbers_of_first, rows_of_first, columns, scalars))
    if not with_gradients:
        total, _ = jax.lax.scan(forward_only, zero_total, chunks)
        return (jax.lax.psum(total, axes) if axes else total), None

    row_gradients: Any
    (total, column_gradients, scalar_gradients), row_gradients = jax.lax.scan(
        forward_and_backward, (zero_total, zeros(columns), zeros(scalars)), chunks
    )
    row_gradients = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1])[:local_size], row_gradients)
    if order is not None:
        column_gradients = jax.tree.map(
            lambda x: jnp.zeros_like(x).at[order].set(x, unique_indices=True), column_gradients
        )
    if axes:
        column_gradients = jax.tree.map(lambda x: jax.lax.psum_scatter(x, axes, tiled=True), column_gradients)
        total, scalar_gradients = jax.lax.psum((total, scalar_gradients), axes)
    return total, (jax.tree.map(jnp.add, row_gradients, column_gradients), scalar_gradients)


def _split(rows: Embeddings, local_size: int, chunk: int) -> tuple[Embeddings, jax.Array]:
    """``[local_size, D]`` to ``[chunks, chunk, D]``, and the rows' numbers, filling from ``local_size`` on."""
    count = -(-local_size // chunk)
    numbers = jnp.arange(count * chunk).reshape(count, chunk)
    # Filled up with copies of real rows, not zeros, so that whatever is computed from them stays finite.
    return jax.tree.map(lambda x: x[numbers % local_size], rows), numbers
