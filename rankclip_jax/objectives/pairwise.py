"""Pairwise losses as means over rows, computed in chunks without materialising the ``[B, B]`` similarity matrix.

Every objective here is a mean, over the rows of the global batch, of a function of the row's similarities to all
columns. Each device processes its own rows in chunks against all columns (one all-gather of each modality), and runs
forward and backward for each chunk at once. With ``r`` the chunk's rows and ``C`` the columns,

    loss = sum_chunks f(r, C) / B        dr = df/dr        dC = sum_chunks df/dC

where ``dC`` is accumulated over chunks and returned to the rows' devices by one reduce-scatter. Only one gradient per
embedding, ``[B / devices, D]``, is kept between the forward and the backward pass; a chunk's ``[chunk, B]`` arrays are
freed with the chunk. The backward pass only scales the kept gradients.

Columns are permuted by ``key``, in the same order on every device, so that a stable sort of a chunk's rows breaks ties
at random.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from rankclip_jax.distributed.collectives import all_gather, reduce_scatter
from rankclip_jax.input_pipeline.setting import MANY, Choice, Range, setting
from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives.objective import LossResult, Metrics, Objective, Step
from rankclip_jax.objectives.products import PRECISIONS, Columns, chosen_precision, prepare, product

# Memory budget of one chunk, and the measured peak number of [chunk, columns] arrays that are alive in it.
CHUNK_BYTES = 64 * 2**20
CHUNK_ARRAYS = 28

Embeddings = Mapping[str, jax.Array]
Scalars = Mapping[str, jax.Array]


class Similarities:
    """Dot products of a chunk of rows with all columns, each computed on first use and cached."""

    def __init__(
        self,
        rows: Embeddings,
        columns: Mapping[str, Columns],
        sums: Embeddings | None,
        own: jax.Array,
        precision: str,
    ) -> None:
        self.views = frozenset(rows)  # image, text, and the augmented views where there are any
        self._rows = rows
        self._columns = columns
        self._sums = sums  # accumulators of the columns' gradients; None: forward only
        self._precision = precision
        self.size = own.shape[1]  # B
        self.own = own  # bool [chunk, B]: True where a column is the row's own pair
        self._products: dict[tuple[str, str, int | None], jax.Array] = {}

    def __call__(self, row: str, column: str, count: int | None = None) -> jax.Array:
        """Returns similarities of rows of one view to all columns, or the first ``count``, of another view.

        The shape is ``[chunk, B]`` or ``[chunk, count]``.
        """
        name = (row, column, count)
        if name not in self._products:
            sums = None if self._sums is None else self._sums[column]
            columns, sums = jax.tree.map(lambda x: x[:count] if x.ndim else x, (self._columns[column], sums))
            self._products[name] = product(self._rows[row], columns, sums, self._precision)
        return self._products[name]

    def paired(self, row: str, column: str) -> jax.Array:
        """Returns the similarity of two views within each row's own pair: ``[chunk]``."""
        return jnp.sum(self._rows[row] * self._rows[column], axis=-1)

    def margins(self, row: str, column: str) -> jax.Array:
        """Returns similarities to all columns minus that to the row's own column: ``[chunk, B]``."""
        return self(row, column) - self.paired(row, column)[:, None]

    def cross_entropy(self, row: str, column: str, scale: jax.Array) -> jax.Array:
        """Returns ``-log softmax(scale * similarity)`` at the row's own column, accurate near 0: ``[chunk]``."""
        others = jax.nn.logsumexp(scale * self.margins(row, column), axis=-1, where=~self.own)
        return jax.nn.softplus(others)


RowLoss = Callable[[Similarities, Scalars], tuple[jax.Array, Metrics]]


@dataclasses.dataclass(frozen=True)
class PairwiseObjective(Objective):
    """An objective that is a mean over the rows of the global batch; a subclass defines the loss of a chunk of rows."""

    chunk_size: int = setting(0, "rows that a device processes at once; 0: by a memory budget", Range(0, MANY))
    precision: str = setting(
        "auto",
        "of similarities: `auto`, `highest`, `f16_x3`, `tf32_x3`, `bf16_x3`, `bf16_x6`",
        Choice(("auto", *PRECISIONS)),
    )

    @abc.abstractmethod
    def row_loss(self, similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        """Computes the loss and metrics of a chunk's rows, each ``[chunk]``, from similarities and scalars."""

    def scheduled(self, step: Step) -> Scalars:
        """Returns scalars that change over training, by name; they are passed to `row_loss` and logged."""
        del step
        return {}

    def loss(self, outputs: Outputs, step: Step) -> LossResult:
        """Computes the mean of `row_loss` over the global batch."""
        scheduled = self.scheduled(step)
        loss, metrics = mean_over_rows(
            self.row_loss,
            outputs.embeddings,
            {**outputs.scalars, **scheduled},
            step,
            chunk_size=self.chunk_size,
            precision=self.precision,
        )
        return LossResult(loss, metrics | dict(scheduled))


def mean_over_rows(
    row_loss: RowLoss,
    embeddings: Embeddings,
    scalars: Scalars,
    step: Step,
    *,
    chunk_size: int = 0,
    precision: str = "auto",
) -> tuple[jax.Array, Metrics]:
    """Computes the mean of ``row_loss`` over all rows, with exact gradients, in memory linear in the batch size.

    Args:
      row_loss: from a chunk's `Similarities` and the scalars to a loss ``[chunk]`` and metrics, each ``[chunk]``.
      embeddings: name to ``[B, D]``, sharded over the mesh; gradients reach them and the scalars.
      scalars: the scale, the objective's parameters and other inputs of the loss, by name, the same on every device.
      step: its key permutes the columns, which breaks ties at random; its mesh shards the rows.
      chunk_size: rows that a device processes at once; 0: as many as fit in `CHUNK_BYTES`.
      precision: of similarities, a key of `products.PRECISIONS`, or ``"auto"``.

    Returns:
      The mean loss and the means of the metrics, scalars; no gradient flows through the metrics.

    Raises:
      ValueError: the rows cannot be split evenly over the devices.
    """
    size = next(iter(embeddings.values())).shape[0]
    dtype = jnp.promote_types(next(iter(embeddings.values())).dtype, jnp.float32)
    embeddings = {name: value.astype(dtype) for name, value in embeddings.items()}
    scalars = {name: jnp.asarray(value, dtype) for name, value in scalars.items()}
    order = jnp.arange(size) if step.key is None else jax.random.permutation(step.key, size)

    mesh, precision = step.mesh, chosen_precision(precision, step.mesh, dtype)
    axes = () if mesh is None else mesh.axis_names
    devices = 1 if mesh is None else mesh.size
    if size % devices:
        raise ValueError(f"{size} rows cannot be split evenly over {devices} devices")
    local_size = size // devices
    largest = min(chunk_size or max(1, CHUNK_BYTES // (CHUNK_ARRAYS * dtype.itemsize * size)), local_size)
    chunk = -(-local_size // -(-local_size // largest))  # the smallest number of chunks, of equal size

    def over_devices(with_gradients: bool) -> Callable:
        local = functools.partial(_local_mean, row_loss, precision, size, chunk, axes, with_gradients)
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
    def mean(embeddings: Embeddings, scalars: Scalars, order: jax.Array) -> tuple[jax.Array, Metrics]:
        return over_devices(with_gradients=False)(embeddings, scalars, order)[0]

    def forward(embeddings: Embeddings, scalars: Scalars, order: jax.Array) -> tuple:
        return over_devices(with_gradients=True)(embeddings, scalars, order)

    def backward(gradients: tuple, cotangents: tuple) -> tuple:
        scaled = jax.tree.map(lambda gradient: cotangents[0] * gradient, gradients)
        return *scaled, None

    mean.defvjp(forward, backward)
    return mean(embeddings, scalars, order)


def _local_mean(
    row_loss: RowLoss,
    precision: str,
    size: int,
    chunk: int,
    axes: tuple[str, ...],
    with_gradients: bool,
    rows: Embeddings,
    scalars: Scalars,
    order: jax.Array,
) -> tuple[Any, Any]:
    """Computes one device's part: ``((loss, metrics), (gradients of its rows, of the scalars) or None)``."""
    local_size = next(iter(rows.values())).shape[0]
    first = jax.lax.axis_index(axes) * local_size if axes else 0
    positions = jnp.zeros_like(order).at[order].set(jnp.arange(size), unique_indices=True)  # of each pair's column
    columns = _in_turn(lambda x: prepare((all_gather(x, axes) if axes else x)[order], precision), rows)

    def chunk_loss(
        rows: Embeddings, sums: Embeddings | None, scalars: Scalars, index: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        numbers = _chunk_start(index, chunk, local_size) + jnp.arange(chunk)
        own = jnp.arange(size) == positions[first + numbers][:, None]
        loss, metrics = row_loss(Similarities(rows, columns, sums, own, precision), scalars)
        new = numbers >= index * chunk  # the last chunk may overlap the one before
        return jax.tree.map(lambda value: jnp.sum(jnp.where(new, value, 0)) / size, (loss, metrics))

    def rows_of(index: jax.Array) -> Embeddings:
        start = _chunk_start(index, chunk, local_size)
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, chunk), rows)

    def forward(total: Any, index: jax.Array) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, chunk_loss(rows_of(index), None, scalars, index)), None

    def forward_and_backward(carry: tuple, index: jax.Array) -> tuple[Any, None]:
        total, summed, scalar_gradients = carry

        def loss_and_sum(rows: Embeddings, sums: Embeddings, scalars: Scalars) -> tuple[jax.Array, Any]:
            results = chunk_loss(rows, sums, scalars, index)
            # The gradient of this product with respect to the sums is the accumulated gradient, so a matrix product
            # adds to it in place instead of allocating an array of the columns' size. The product itself is never
            # computed.
            products = jax.tree.map(jnp.vdot, summed, sums)
            return results[0] + jax.tree.reduce(jnp.add, products), results

        gradients, results = jax.grad(loss_and_sum, argnums=(0, 1, 2), has_aux=True)(rows_of(index), summed, scalars)
        row_gradients, summed, more_scalar_gradients = gradients
        start = first + _chunk_start(index, chunk, local_size)
        chunk_positions = jax.lax.dynamic_slice_in_dim(positions, start, chunk)
        summed = jax.tree.map(lambda x, row: x.at[chunk_positions].add(row, unique_indices=True), summed, row_gradients)
        total = jax.tree.map(jnp.add, total, results)
        return (total, summed, jax.tree.map(jnp.add, scalar_gradients, more_scalar_gradients)), None

    chunks = jnp.arange(-(-local_size // chunk))
    zeros = functools.partial(jax.tree.map, jnp.zeros_like)
    zero_total = zeros(jax.eval_shape(chunk_loss, rows_of(chunks[0]), None, scalars, chunks[0]))
    if not with_gradients:
        total, _ = jax.lax.scan(forward, zero_total, chunks)
        return (jax.lax.psum(total, axes) if axes else total), None

    sums = {name: jnp.zeros((size, own.shape[1]), own.dtype) for name, own in rows.items()}
    start = (zero_total, sums, zeros(scalars))
    (total, gradients, scalar_gradients), _ = jax.lax.scan(forward_and_backward, start, chunks)
    gradients = _in_turn(lambda x: reduce_scatter(x[positions], axes) if axes else x[positions], gradients)
    if axes:
        total, scalar_gradients = jax.lax.psum((total, scalar_gradients), axes)
    return total, (gradients, scalar_gradients)


def _in_turn(function: Callable[[jax.Array], Any], arrays: Embeddings) -> dict[str, Any]:
    """Applies the function to the arrays in sequence, so that the intermediates of only one are alive at a time."""
    results: dict[str, Any] = {}
    for name, array in arrays.items():
        array, results = jax.lax.optimization_barrier((array, results))  # noqa: PLW2901
        results[name] = function(array)
    return results


def _chunk_start(index: jax.Array, chunk: int, local_size: int) -> jax.Array:
    """Returns the first row of a chunk; the last chunk starts early, so that it does not run past the end."""
    return jnp.minimum(index * chunk, local_size - chunk)
