"""Matrix products of a chunk of rows with all columns, which are almost all of a loss's FLOPs.

Matrix units compute float32 products as several products of lower precision. XLA's algorithms for this split the
columns into additional float32 arrays, as large as the columns themselves. ``f16_x3`` instead stores the columns as the
sum of two float16 numbers: 22 bits in the memory of one float32 array, at twice the rate of TF32, with the same error.
Embeddings and gradients are scaled into float16's range by a power of two, which is exact.

    x y = (x_high + x_low) (y_high + y_low) ~ x_high y_high + x_low y_high + x_high y_low

The omitted product ``x_low y_low`` is 2^-22 of the whole. docs/objectives.md has the measured errors.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rankclip_jax.input_pipeline.errors import UserError

# Each operand is a sum of two or three lower-precision numbers; ``_x3`` or ``_x6`` is the number of products added.
PRECISIONS: dict[str, jax.lax.PrecisionLike] = {
    "highest": jax.lax.Precision.HIGHEST,
    "f16_x3": None,  # implemented in this file
    "tf32_x3": jax.lax.DotAlgorithmPreset.TF32_TF32_F32_X3,
    "bf16_x3": jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X3,
    "bf16_x6": jax.lax.DotAlgorithmPreset.BF16_BF16_F32_X6,
}
_GPUS = ("gpu", "cuda")
_LARGEST_EXPONENT = 14  # of a scaled array: sums of two numbers below 2^14 stay far below float16's limit, 65,504
_SMALLEST_EXPONENT = -110  # of an array's largest number, so that the unit does not underflow float32


class Halves(NamedTuple):
    """An array represented as ``(high + low) * unit``.

    Args:
      high, low: float16, of the array's shape.
      unit: a power of two, float32 ``[]``.
    """

    high: jax.Array
    low: jax.Array
    unit: jax.Array


Columns = jax.Array | Halves


def chosen_precision(name: str, mesh: Mesh | None, dtype: jax.typing.DTypeLike) -> str:
    """Returns the key of `PRECISIONS` for similarities of a dtype on a mesh's devices.

    Args:
      name: a key of `PRECISIONS`, or ``"auto"``: the fastest whose gradients are as accurate as float32's. On TPUs
        ``"highest"`` is already six products of bfloat16.
      mesh: the devices; None: JAX's default backend.
      dtype: of the embeddings; only float32 products are split.

    Raises:
      UserError: the devices do not support it.
    """
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    if name == "auto":
        name = "f16_x3" if platform in _GPUS else "highest"
    if name.startswith("tf32") and platform not in _GPUS:
        raise UserError(
            f"config.objective.precision: {name} needs an NVIDIA GPU; found {platform}. Use "
            "--config.objective.precision=auto or highest."
        )
    return name if jnp.dtype(dtype) == jnp.float32 else "highest"


def prepare(columns: jax.Array, precision: str) -> Columns:
    """Returns columns ``[B, D]`` in the form that `product` takes."""
    return _halves(columns) if precision == "f16_x3" else columns


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def product(rows: jax.Array, columns: Columns, sums: jax.Array | None, precision: str) -> jax.Array:
    """Returns the dot products of rows and columns.

    Args:
      rows: ``[chunk, D]``.
      columns: ``[B, D]``, see `prepare`; they receive no gradient.
      sums: ``[B, D]``, an array that receives the columns' gradient instead; its values are not read.
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
    matmul = functools.partial(jnp.matmul, precision=PRECISIONS[precision])
    return matmul(gradient, columns), None, matmul(gradient.T, rows)


product.defvjp(_forward, _backward)


def _halves(x: jax.Array) -> Halves:
    _, exponent = jnp.frexp(jnp.max(jnp.abs(x)))
    unit = jnp.ldexp(jnp.float32(1), jnp.maximum(exponent, _SMALLEST_EXPONENT) - _LARGEST_EXPONENT)
    x = x / unit
    # An explicit rounding: XLA may remove a conversion to float16 and back.
    high = jax.lax.reduce_precision(x, exponent_bits=5, mantissa_bits=10)
    return Halves(high.astype(jnp.float16), (x - high).astype(jnp.float16), unit)


def _times(x: jax.Array, columns: Halves, contracted: int) -> jax.Array:
    """Returns ``x`` times the columns, ``[B, D]``, contracted over the columns' given axis."""

    def dot(x: jax.Array, y: jax.Array) -> jax.Array:
        axes = (((1,), (contracted,)), ((), ()))
        return jax.lax.dot_general(x, y, axes, preferred_element_type=jnp.float32)

    split = _halves(x)
    both = dot(jnp.concatenate([split.high, split.low]), columns.high)  # reads the columns once for both
    high, low = jnp.split(both, 2)
    return (high + (low + dot(split.high, columns.low))) * split.unit * columns.unit


def _outer(x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns ``x.T @ y`` for ``[chunk, B]`` and ``[chunk, D]``, as one product that can accumulate in place.

    A common scale factor would need a second pass over the result, so the parts have float32's range and TF32's bits.
    """
    (x_high, x_low), (y_high, y_low) = _tf32_parts(x), _tf32_parts(y)
    x, y = jnp.concatenate([x_high, x_low, x_high]), jnp.concatenate([y_high, y_high, y_low])
    return jnp.matmul(x.T, y, precision=jax.lax.Precision.DEFAULT)


def _tf32_parts(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    high = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=10)
    return high, x - high
