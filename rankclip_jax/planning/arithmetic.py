"""Counts the FLOPs of matrix products and convolutions in a traced program, including those in loops."""

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

import jax
import jax.extend.core
from jax.lax import DotAlgorithmPreset, Precision

# The dtype and number of the lower-precision products that each algorithm consists of.
_PASSES: dict[Any, tuple[str, int]] = {
    DotAlgorithmPreset.TF32_TF32_F32: ("tf32", 1),
    DotAlgorithmPreset.TF32_TF32_F32_X3: ("tf32", 3),
    DotAlgorithmPreset.BF16_BF16_F32: ("bfloat16", 1),
    DotAlgorithmPreset.BF16_BF16_F32_X3: ("bfloat16", 3),
    DotAlgorithmPreset.BF16_BF16_F32_X6: ("bfloat16", 6),
}


# Matrix products of flash attention. Forward: scores and results. Backward: recomputed scores and four gradients.
_FLASH_PRODUCTS = {"dot_product_attention_fwd_wrapper": 2, "dot_product_attention_bwd_wrapper": 5}


def flops(traced: Any) -> Counter[str]:
    """Returns the FLOPs of matrix products and convolutions on one device, by compute dtype.

    Multiplications and additions count one each; recomputation counts again. Dtypes are ``bfloat16``, ``tf32`` (float32
    without an explicit request for full precision) and ``float32``.

    Args:
      traced: the result of ``jax.jit(...).trace(...)``; products inside ``shard_map`` are those of one device.
    """
    return _count(traced.jaxpr.jaxpr)


def _count(jaxpr: Any) -> Counter[str]:
    total: Counter[str] = Counter()
    for equation in jaxpr.eqns:
        match equation.primitive.name:
            case "dot_general":
                total.update(_product(equation))
            case "conv_general_dilated":
                total.update(_convolution(equation))
            case name if name in _FLASH_PRODUCTS:
                total.update(_flash_attention(equation))
            case _:
                times = equation.params["length"] if equation.primitive.name == "scan" else 1
                for inner in _inside(equation.params.values()):
                    total.update({kind: times * count for kind, count in _count(inner).items()})
    return total


def _inside(values: Iterable[Any]) -> Iterable[Any]:
    """Yields the subprograms among an operation's parameters, including all branches."""
    for value in values:
        if isinstance(value, tuple | list):
            yield from _inside(value)
        elif isinstance(value, jax.extend.core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, jax.extend.core.Jaxpr):
            yield value


def _product(equation: Any) -> Counter[str]:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, result = equation.invars[0].aval, equation.outvars[0].aval
    count = 2 * math.prod(result.shape) * math.prod(left.shape[axis] for axis in contracted)
    return _typed(left.dtype, equation.params["precision"], count)


def _convolution(equation: Any) -> Counter[str]:
    """Counts a convolution: each output is a sum over the window and a group's input features."""
    kernel, result = equation.invars[1].aval, equation.outvars[0].aval
    numbers = equation.params["dimension_numbers"]
    features = numbers.rhs_spec[0]
    window = math.prod(size for axis, size in enumerate(kernel.shape) if axis != features)
    return _typed(kernel.dtype, equation.params["precision"], 2 * math.prod(result.shape) * window)


def _flash_attention(equation: Any) -> Counter[str]:
    """Counts the attention of queries ``[B, L, heads, width]`` to keys; a causal mask is not deducted."""
    query, key = (variable.aval for variable in equation.invars[:2])
    count = 2 * math.prod(query.shape) * key.shape[1] * _FLASH_PRODUCTS[equation.primitive.name]
    return _typed(query.dtype, None, count)


def _typed(dtype: Any, precision: Any, count: int) -> Counter[str]:
    if dtype != "float32":
        return Counter(
            {"bfloat16" if dtype == "float16" else str(dtype): count}
        )  # float16 and bfloat16 have the same rate
    if isinstance(precision, DotAlgorithmPreset):
        kind, passes = _PASSES.get(precision, ("float32", 1))
        return Counter({kind: passes * count})
    exact = precision is not None and Precision.HIGHEST in (precision if isinstance(precision, tuple) else (precision,))
    return Counter({"float32" if exact else "tf32": count})
