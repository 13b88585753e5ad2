"""Low-rank adaptation (Hu et al., 2022): a kernel ``W`` is frozen, and the product of two thin matrices is trained.

The model computes with ``W + A B``. ``A`` is initialised like a kernel and ``B`` with zeros, so training starts from
the model of ``W``. Any encoder can be adapted, since the sum is formed before the encoder is applied. The paper's
``alpha / r`` is 1 here: it only scales the learning rate of ``B``, which ``config.optimizer.rate_overrides`` sets.
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

LORA = "lora"  # the key of the matrices among the parameters; below it, each has its kernel's path
_ENCODERS = ("vision", "text")

Ranks = Sequence[tuple[str, int]]


def init(parameters: optax.Params, ranks: Ranks, key: jax.Array) -> dict[str, Any]:
    """Initialises ``{"a": [..., in, rank], "b": [..., rank, out]}`` for each kernel that matches a pattern.

    Args:
      parameters: the model's parameters; others are ignored.
      ranks: pairs of a pattern and a rank; the first pattern found in a kernel's name applies.
      key: PRNG key.

    Raises:
      UserError: a pattern matches no parameter, matches one that is not a matrix, or matches only some of the stacked
        blocks.
    """
    encoders = {name: parameters[name] for name in _ENCODERS if name in parameters}
    check_patterns(encoders, [pattern for pattern, _ in ranks], LORA)
    wanted = flatten_dict(by_pattern(encoders, lambda _: 0.0, ranks))
    matrices = {}
    for number, (path, kernel) in enumerate(flatten_dict(encoders).items()):
        kernel_ranks = np.unique(wanted[path])
        if not kernel_ranks.any():
            continue
        name, stacked = "/".join(path), is_stacked(tuple(map(jax.tree_util.DictKey, path)))
        if len(kernel_ranks) > 1:
            raise UserError(
                f"config.optimizer.lora: {name}: expected one rank for all stacked blocks; found "
                f"{', '.join(f'{rank:g}' for rank in kernel_ranks)}. Use a pattern that matches every block."
            )
        if kernel.ndim < 2 + stacked:
            raise UserError(
                f"config.optimizer.lora: {name}: expected a matrix; found the shape {kernel.shape}. Use a pattern that "
                "matches kernels only."
            )
        rank, stack = int(kernel_ranks[0]), kernel.shape[:1] if stacked else ()
        draw = nn.initializers.lecun_normal(batch_axis=0 if stacked else ())
        matrices[(*path, "a")] = draw(jax.random.fold_in(key, number), (*kernel.shape[:-1], rank), kernel.dtype)
        matrices[(*path, "b")] = jnp.zeros((*stack, rank, kernel.shape[-1]), kernel.dtype)
    return unflatten_dict(matrices)


def merge(parameters: optax.Params) -> optax.Params:
    """Returns the model's own parameters, with each product ``A B`` added to its kernel."""
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
    """Returns the paths of the kernels that have LoRA matrices."""
    return {path[:-1] for path in flatten_dict(parameters.get(LORA, {}))}
