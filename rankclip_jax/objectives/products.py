"""Products of a chunk of rows with all columns: where almost all of a loss's operations are.

Float32 products run on matrix units as several products of shorter numbers. XLA's own forms of this split the columns
into further float32 arrays, as large as the columns themselves. ``f16_x3`` keeps the columns as the sum of two float16
numbers instead: 22 bits in the memory of one float32 array, at twice the rate of TF32, with the same error. Embeddings
and gradients are brought into float16's range by a power of two, which is exact.

    x y = (x_high + x_low) (y_high + y_low) ~ x_high y_high + x_low y_high + x_high y_low

The product that is left out is 2^-22 of the whole. Errors are measured in docs/objectives.md.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rankclip_jax.input_pipeline.errors import UserError

# Each operand is the sum of two or three shorter numbers, and as many of their products are added as the name says.
PRECISIONS: dict[str, jax.lax.PrecisionLike] = {
    "highest": jax.lax.Precision.HIGHEST,
    "f16_x3": None,  # this file's own
    "tf32_x3": jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3,
    "bf16_x3": jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X3,
    "bf16_x6": jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X6,
}
_GPUS = ("gpu", "cuda")
_LARGEST_EXPONENT = 14  # of what is split: a sum of two numbers below 2^14 is far from float16's limit, 65,504
_SMALLEST_EXPONENT = -110  # of the largest number of an array: a unit is not below float32's own least


class Halves(NamedTuple):
    """An array as ``(high + low) * unit``.

    Args:
      high, low: float16, of the array's shape.
      unit: a power of two, float32 ``[]``.
    """

    high: jax.Array
    low: jax.Array
    unit: jax.Array


Columns = jax.Array | Halves


def chosen_precision(name: str, mesh: Mesh | None, dtype: jax.typing.DTypeLike) -> str:
    """The key of `PRECISIONS` for similarities of a type on a mesh's devices, or on those that are here.

    Args:
      name: such a key, or ``"auto"``: the fastest whose gradients are as exact as float32's. On TPUs ``"highest"`` is
        six products of bfloat16 already.
      mesh: the devices; None: JAX's default ones.
      dtype: of the embeddings; all but float32 are multiplied as they are.

    Raises:
      UserError: these devices do not have it.
    """
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    if name == "auto":
        name = "f16_x3" if platform in _GPUS else "highest"
    if name.startswith("tf32") and platform not in _GPUS:
        raise UserError(
            f"config.objective.precision: {name} needs an NVIDIA GPU; found {platform}. Use auto or highest."
        )
    return name if jnp.dtype(dtype) == jnp.float32 else "highest"


def prepare(columns: jax.Array, precision: str) -> Columns:
    """Columns ``[B, D]`` in the form that `product` takes."""
    return _halves(columns) if precision == "f16_x3" else columns


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def product(rows: jax.Array, columns: Columns, sums: jax.Array | None, precision: str) -> jax.Array:
    """Dot products of rows and columns.

    Args:
      rows: ``[chunk, D]``.
      columns: ``[B, D]``, see `prepare`; no gradient reaches them.
      sums: ``[B, D]``, an array that receives the columns' gradient in their place; its values are not read.
      precision: a key of `PRECISIONS`.

    Returns:
      ``[chunk, B]``.
    """
    del sums
    if isinstance(columns, Halves):
        return _times(rows, columns, contracted=1)
    return jnp.matmul(rows, columns.T, precision=PRECISIONS[precision])


def _forward(
    rows: jax.Array, columns: Columns, sums: jax.Array | None, precision: str
) -> tuple[jax.Array, tuple[jax.Array, Columns]]:
    return product(rows, columns, sums, precision), (rows, columns)


def _backward(precision: str, kept: tuple[jax.Array, Columns], gradient: jax.Array) -> tuple:
    rows, columns = kept
    if isinstance(columns, Halves):
        return _times(gradient, columns, contracted=0), None, _outer(gradient, rows)
    how = PRECISIONS[precision]
    of_rows = jnp.matmul(gradient, columns, precision=how)
    return of_rows, None, jnp.matmul(gradient.T, rows, precision=how)


product.defvjp(_forward, _backward)


def _halves(x: jax.Array) -> Halves:
    _, exponent = jnp.frexp(jnp.max(jnp.abs(x)))
    unit = jnp.ldexp(jnp.float32(1), jnp.maximum(exponent, _SMALLEST_EXPONENT) - _LARGEST_EXPONENT)
    x = x / unit
    # Rounded by an operation of its own: a conversion to float16 and back is one that XLA may leave out.
    high = jax.lax.reduce_precision(x, exponent_bits=5, mantissa_bits=10)
    return Halves(high.astype(jnp.float16), (x - high).astype(jnp.float16), unit)


def _times(x: jax.Array, columns: Halves, contracted: int) -> jax.Array:
    """``x`` times the columns, ``[B, D]``, with this axis of theirs contracted."""

    def dot(x: jax.Array, y: jax.Array) -> jax.Array:
        axes = (((1,), (contracted,)), ((), ()))
        return jax.lax.dot_general(x, y, axes, preferred_element_type=jnp.float32)

    split = _halves(x)
    both = dot(jnp.concatenate([split.high, split.low]), columns.high)  # the columns are read once for the two
    high, low = jnp.split(both, 2)
    return (high + (low + dot(split.high, columns.low))) * split.unit * columns.unit


def _outer(x: jax.Array, y: jax.Array) -> jax.Array:
    """``x.T @ y`` for ``[chunk, B]`` and ``[chunk, D]``, as one product that can be added to an array in its place.

    A common factor would need a second pass over the result, so that these parts have float32's range and TF32's bits.
    """
    (x_high, x_low), (y_high, y_low) = _tf32_parts(x), _tf32_parts(y)
    x, y = jnp.concatenate([x_high, x_low, x_high]), jnp.concatenate([y_high, y_high, y_low])
    return jnp.matmul(x.T, y, precision=jax.lax.Precision.DEFAULT)


def _tf32_parts(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    high = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=10)
    return high, x - high
