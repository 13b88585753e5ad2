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
from typing import Any, NamedTuple

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

CAPTION = "caption"  # the value of a pair that is equal for equal captions

Embeddings = Mapping[str, jax.Array]
Scalars = Mapping[str, jax.Array]
Values = Mapping[str, jax.Array]


class Similarities:
    """Dot products of a chunk of rows with all columns, each computed on first use and cached."""

    def __init__(
        self,
        rows: Embeddings,
        columns: Mapping[str, Columns],
        sums: Embeddings | None,
        own: jax.Array,
        precision: str,
        values: tuple[Values, Values] = ({}, {}),
    ) -> None:
        self.views = frozenset(rows)  # image, text, and the augmented views where there are any
        self._rows = rows
        self._columns = columns
        self._sums = sums  # accumulators of the columns' gradients; None: forward only
        self._precision = precision
        self.size = own.shape[1]  # B
        self.own = own  # bool [chunk, B]: True where a column is the row's own pair
        self._products: dict[tuple[str, str, int | None], jax.Array] = {}
        self._values, self._column_values = values
        self.kept: dict[str, jax.Array] = {}

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

    def value(self, name: str) -> jax.Array:
        """Returns what is known of each row besides its embeddings: ``[chunk, ...]``."""
        return self._values[name]

    def column_value(self, name: str) -> jax.Array:
        """Returns the same of each column: ``[B, ...]``."""
        return self._column_values[name]

    def keep(self, name: str, values: jax.Array) -> None:
        """Returns values of each row, ``[chunk, ...]``, with the loss; no gradient flows through them."""
        self.kept[name] = jax.lax.stop_gradient(values)

    @property
    def positives(self) -> jax.Array:
        """Returns where a column is a positive of the row, bool ``[chunk, B]``: its own, and those of the same caption.

        Captions are compared only for objectives with ``same_text``.
        """
        if CAPTION not in self._values:
            return self.own
        return self.own | jnp.all(self.value(CAPTION)[:, None] == self.column_value(CAPTION), axis=-1)

    def cross_entropy(self, row: str, column: str, scale: jax.Array) -> jax.Array:
        """Returns the mean of ``-log softmax(scale * similarity)`` over the row's positives: ``[chunk]``.

        With the row's own column alone, it is accurate near 0.
        """
        logits = scale * self.margins(row, column)
        if CAPTION in self._values:
            positives = self.positives
            return jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1, where=positives)
        return jax.nn.softplus(jax.nn.logsumexp(logits, axis=-1, where=~self.own))


class Mean(NamedTuple):
    """The mean of a loss over all rows.

    Args:
      loss: scalar.
      metrics: the means of the metrics, scalars.
      kept: the values of each row that the loss kept, ``[B, ...]`` by name.
    """

    loss: jax.Array
    metrics: Metrics
    kept: dict[str, jax.Array]


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

    def values(self, outputs: Outputs, step: Step) -> Values:
        """Returns what `row_loss` needs of each pair besides its embeddings, ``[B, ...]`` by name."""
        del outputs, step
        return {}

    def next_state(self, step: Step, kept: Values) -> Mapping[str, jax.Array]:
        """Returns the objective's state after a step, from the values of each pair that `row_loss` kept."""
        del kept
        return step.state

    def loss(self, outputs: Outputs, step: Step) -> LossResult:
        """Computes the mean of `row_loss` over the global batch."""
        scheduled = self.scheduled(step)
        mean = mean_over_rows(
            self.row_loss,
            outputs.embeddings,
            {**outputs.scalars, **scheduled},
            step,
            chunk_size=self.chunk_size,
            precision=self.precision,
            values=self.values(outputs, step),
        )
        return LossResult(mean.loss, mean.metrics | dict(scheduled), self.next_state(step, mean.kept))


def mean_over_rows(
    row_loss: RowLoss,
    embeddings: Embeddings,
    scalars: Scalars,
    step: Step,
    *,
    chunk_size: int = 0,
    precision: str = "auto",
    values: Values | None = None,
) -> Mean:
    """Computes the mean of ``row_loss`` over all rows, with exact gradients, in memory linear in the batch size.

    Args:
      row_loss: from a chunk's `Similarities` and the scalars to a loss ``[chunk]`` and metrics, each ``[chunk]``.
      embeddings: name to ``[B, D]``, sharded over the mesh; gradients reach them and the scalars.
      scalars: the scale, the objective's parameters and other inputs of the loss, by name, the same on every device.
      step: its key permutes the columns, which breaks ties at random; its mesh shards the rows.
      chunk_size: rows that a device processes at once; 0: as many as fit in `CHUNK_BYTES`.
      precision: of similarities, a key of `products.PRECISIONS`, or ``"auto"``.
      values: what the loss needs of each pair besides its embeddings, ``[B, ...]`` by name, sharded as they are; no
        gradient flows through them.

    Returns:
      The means of the loss and of the metrics, and what the loss kept of each row; gradients flow through the loss.

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
            in_specs=(sharded, replicated, replicated, sharded),
            out_specs=((replicated, replicated, sharded), gradients),
            check_vma=False,
        )

    @jax.custom_vjp
    def mean(embeddings: Embeddings, scalars: Scalars, order: jax.Array, values: Values) -> Mean:
        return Mean(*over_devices(with_gradients=False)(embeddings, scalars, order, values)[0])

    def forward(embeddings: Embeddings, scalars: Scalars, order: jax.Array, values: Values) -> tuple[Mean, Any]:
        result, gradients = over_devices(with_gradients=True)(embeddings, scalars, order, values)
        return Mean(*result), gradients

    def backward(gradients: tuple, cotangents: Mean) -> tuple:
        scaled = jax.tree.map(lambda gradient: cotangents.loss * gradient, gradients)
        return *scaled, None, None

    mean.defvjp(forward, backward)
    return mean(embeddings, scalars, order, values or {})


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
    values: Values,
) -> tuple[tuple, Any]:
    """Computes one device's part: ``(loss, metrics, kept)``, and ``(gradients of rows, of scalars)`` or None."""
    local_size = next(iter(rows.values())).shape[0]
    first = jax.lax.axis_index(axes) * local_size if axes else 0
    positions = jnp.zeros_like(order).at[order].set(jnp.arange(size), unique_indices=True)  # of each pair's column
    columns = _in_turn(lambda x: prepare((all_gather(x, axes) if axes else x)[order], precision), rows)
    column_values = {name: (all_gather(x, axes) if axes else x)[order] for name, x in values.items()}

    def chunk_loss(rows: Embeddings, sums: Embeddings | None, scalars: Scalars, index: jax.Array) -> Mean:
        numbers = _chunk_start(index, chunk, local_size) + jnp.arange(chunk)
        own = jnp.arange(size) == positions[first + numbers][:, None]
        known = (chunk_of(values, index), column_values)
        similarity = Similarities(rows, columns, sums, own, precision, known)
        results = row_loss(similarity, scalars)
        new = numbers >= index * chunk  # the last chunk may overlap the one before
        loss, metrics = jax.tree.map(lambda value: jnp.sum(jnp.where(new, value, 0)) / size, results)
        return Mean(loss, metrics, similarity.kept)

    def chunk_of(arrays: Mapping[str, jax.Array], index: jax.Array) -> dict[str, jax.Array]:
        start = _chunk_start(index, chunk, local_size)
        return {name: jax.lax.dynamic_slice_in_dim(x, start, chunk) for name, x in arrays.items()}

    def add(total: Mean, part: Mean, index: jax.Array) -> Mean:
        loss, metrics = jax.tree.map(jnp.add, total[:2], part[:2])
        start = _chunk_start(index, chunk, local_size)
        update = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=start, axis=0)
        return Mean(loss, metrics, jax.tree.map(update, total.kept, part.kept))

    def forward(total: Mean, index: jax.Array) -> tuple[Mean, None]:
        return add(total, chunk_loss(chunk_of(rows, index), None, scalars, index), index), None

    def forward_and_backward(carry: tuple, index: jax.Array) -> tuple[Any, None]:
        total, summed, scalar_gradients = carry

        def loss_and_sum(rows: Embeddings, sums: Embeddings, scalars: Scalars) -> tuple[jax.Array, Mean]:
            results = chunk_loss(rows, sums, scalars, index)
            # The gradient of this product with respect to the sums is the accumulated gradient, so a matrix product
            # adds to it in place instead of allocating an array of the columns' size. The product itself is never
            # computed.
            products = jax.tree.map(jnp.vdot, summed, sums)
            return results.loss + jax.tree.reduce(jnp.add, products), results

        own_rows = chunk_of(rows, index)
        gradients, results = jax.grad(loss_and_sum, argnums=(0, 1, 2), has_aux=True)(own_rows, summed, scalars)
        row_gradients, summed, more_scalar_gradients = gradients
        start = first + _chunk_start(index, chunk, local_size)
        chunk_positions = jax.lax.dynamic_slice_in_dim(positions, start, chunk)
        summed = jax.tree.map(lambda x, row: x.at[chunk_positions].add(row, unique_indices=True), summed, row_gradients)
        total = add(total, results, index)
        return (total, summed, jax.tree.map(jnp.add, scalar_gradients, more_scalar_gradients)), None

    chunks = jnp.arange(-(-local_size // chunk))
    zeros = functools.partial(jax.tree.map, jnp.zeros_like)
    part = jax.eval_shape(chunk_loss, chunk_of(rows, chunks[0]), None, scalars, chunks[0])
    kept = {name: jnp.zeros((local_size, *x.shape[1:]), x.dtype) for name, x in part.kept.items()}
    zero_total = Mean(zeros(part.loss), zeros(part.metrics), kept)

    def over_all(total: Mean) -> tuple:
        loss, metrics = jax.lax.psum(total[:2], axes) if axes else total[:2]
        return loss, metrics, total.kept

    if not with_gradients:
        total, _ = jax.lax.scan(forward, zero_total, chunks)
        return over_all(total), None

    sums = {name: jnp.zeros((size, own.shape[1]), own.dtype) for name, own in rows.items()}
    start = (zero_total, sums, zeros(scalars))
    (total, gradients, scalar_gradients), _ = jax.lax.scan(forward_and_backward, start, chunks)
    gradients = _in_turn(lambda x: reduce_scatter(x[positions], axes) if axes else x[positions], gradients)
    scalar_gradients = jax.lax.psum(scalar_gradients, axes) if axes else scalar_gradients
    return over_all(total), (gradients, scalar_gradients)


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
