"""Parameters by patterns in their names, such as ``vision/transformer/blocks/3/mlp_in/kernel``."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax

from rankclip_jax.input_pipeline.errors import UserError

Overrides = Sequence[tuple[str, float]]


def by_pattern(parameters: optax.Params, default: Callable[[tuple], float], overrides: Overrides) -> optax.Params:
    """For each parameter the number of the first pattern found in its name, float32 ``[]``.

    Where blocks are stacked, that is one for each, ``[layers, 1, ...]``. Names are as `names_of` gives them.
    """

    def number(name: str, path: tuple) -> float:
        return next((value for pattern, value in overrides if re.search(pattern, name)), default(path))

    def numbers(path: tuple, leaf: Any) -> np.ndarray:
        names = names_of(path, leaf)
        found = np.asarray([number(name, path) for name in names], np.float32)
        return found[0] if len(names) == 1 and not is_stacked(path) else found.reshape(-1, *[1] * (leaf.ndim - 1))

    return jax.tree_util.tree_map_with_path(numbers, parameters)


def names_of(path: tuple, leaf: Any) -> list[str]:
    """A parameter's name, such as ``vision/projection/kernel``; where blocks are stacked, that of each.

    Those are such as ``vision/transformer/blocks/3/mlp_in/kernel``.
    """
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if not is_stacked(path):
        return [name]
    return [name.replace("/blocks/", f"/blocks/{layer}/") for layer in range(leaf.shape[0])]


def is_stacked(path: tuple) -> bool:
    """Whether a parameter is of blocks that are stacked along its first axis."""
    return any(getattr(key, "key", None) == "blocks" for key in path)


def check_patterns(parameters: optax.Params, patterns: Sequence[str], setting: str) -> None:
    """Raises UserError, which names ``config.optimizer.<setting>``, for a pattern that is in no parameter's name."""
    leaves = jax.tree_util.tree_flatten_with_path(parameters)[0]
    names = [name for path, leaf in leaves for name in names_of(path, leaf)]
    unused = sorted(pattern for pattern in patterns if not any(re.search(pattern, name) for name in names))
    if unused:
        raise UserError(
            f"config.optimizer.{setting}: no parameter has a name with {', '.join(map(repr, unused))}. Names "
            "are such as vision/transformer/blocks/3/mlp_in/kernel."
        )
