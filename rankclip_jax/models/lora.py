"""Low-rank adaptation (Hu et al., 2022): a kernel ``W`` stays as it is, and a product of two thin matrices is trained.

The model computes with ``W + A B``, where ``A`` is drawn as a kernel is and ``B`` starts from zeros, so that training
starts from the model of ``W``. Any encoder can be adapted, since the sum is taken before it is applied. The paper's
``alpha / r`` is 1 here: it scales the learning rate of ``B``, for which there is ``config.optimizer.rate_overrides``.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.models.parameter_names import by_pattern, check_patterns, is_stacked

LORA = "lora"  # the matrices' place among the parameters, in which each stands where its kernel does
_ENCODERS = ("vision", "text")

Ranks = Sequence[tuple[str, int]]


def init(parameters: optax.Params, ranks: Ranks, key: jax.Array) -> dict[str, Any]:
    """The matrices of the kernels that the patterns name, each ``{"a": [..., in, rank], "b": [..., rank, out]}``.

    Args:
      parameters: of the model, and others.
      ranks: pairs of a pattern and a rank; the first pattern that is found in a kernel's name counts.
      key: of the draws.

    Raises:
      UserError: a pattern is in no name, or names what is no kernel, or only some of the blocks of a stack.
    """
    encoders = {name: parameters[name] for name in _ENCODERS}
    check_patterns(encoders, [pattern for pattern, _ in ranks], LORA)
    wanted = flatten_dict(by_pattern(encoders, lambda _: 0.0, ranks))
    matrices = {}
    for number, (path, kernel) in enumerate(flatten_dict(encoders).items()):
        found = np.unique(wanted[path])
        if not found.any():
            continue
        name, stacked = "/".join(path), is_stacked(tuple(map(jax.tree_util.DictKey, path)))
        if len(found) > 1:
            raise UserError(f"config.optimizer.lora: {name}: expected one rank for all blocks of a stack.")
        if kernel.ndim < 2 + stacked:
            raise UserError(f"config.optimizer.lora: {name}: expected a matrix; found the shape {kernel.shape}.")
        rank, stack = int(found[0]), kernel.shape[:1] if stacked else ()
        draw = nn.initializers.lecun_normal(batch_axis=0 if stacked else ())
        matrices[(*path, "a")] = draw(jax.random.fold_in(key, number), (*kernel.shape[:-1], rank), kernel.dtype)
        matrices[(*path, "b")] = jnp.zeros((*stack, rank, kernel.shape[-1]), kernel.dtype)
    return unflatten_dict(matrices)


def merge(parameters: optax.Params) -> optax.Params:
    """The parameters of the model alone, with the products added to their kernels."""
    if LORA not in parameters:
        return parameters
    matrices = flatten_dict(parameters[LORA])
    flat = flatten_dict({name: value for name, value in parameters.items() if name != LORA})
    for *path, part in matrices:
        if part == "a":
            a, b, kernel = matrices[(*path, "a")], matrices[(*path, "b")], flat[tuple(path)]
            b = b.reshape(*b.shape[:-2], *[1] * (a.ndim - b.ndim), *b.shape[-2:])
            flat[tuple(path)] = kernel + jnp.matmul(a, b, precision="highest")
    return unflatten_dict(flat)


def adapted(parameters: optax.Params) -> set[tuple[str, ...]]:
    """The paths of the kernels that have such matrices."""
    return {path[:-1] for path in flatten_dict(parameters.get(LORA, {}))}
