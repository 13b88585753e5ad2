"""Selection of parameters by regular expressions over names such as ``vision/transformer/blocks/3/mlp_in/kernel``."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax

from rankclip_jax.input_pipeline.errors import UserError

Overrides = Sequence[tuple[str, float]]


def by_pattern(parameters: optax.Params, default: Callable[[tuple], float], overrides: Overrides) -> optax.Params:
    """Returns, for each parameter, the number of the first pattern found in its name, float32 ``[]``.

    Stacked blocks get one number each, ``[layers, 1, ...]``. Names are those of `names_of`.
    """

    def number(name: str, path: tuple) -> float:
        return next((value for pattern, value in overrides if re.search(pattern, name)), default(path))

    def numbers(path: tuple, leaf: Any) -> np.ndarray:
        names = names_of(path, leaf)
        values = np.asarray([number(name, path) for name in names], np.float32)
        return values[0] if len(names) == 1 and not is_stacked(path) else values.reshape(-1, *[1] * (leaf.ndim - 1))

    return jax.tree_util.tree_map_with_path(numbers, parameters)


def names_of(path: tuple, leaf: Any) -> list[str]:
    """Returns a parameter's name, such as ``vision/projection/kernel``; for stacked blocks, one name per block.

    The name of a block's parameter is, for example, ``vision/transformer/blocks/3/mlp_in/kernel``.
    """
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if not is_stacked(path):
        return [name]
    return [name.replace("/blocks/", f"/blocks/{layer}/") for layer in range(leaf.shape[0])]


def is_stacked(path: tuple) -> bool:
    """Returns whether a parameter belongs to blocks that are stacked along its first axis."""
    return any(getattr(key, "key", None) == "blocks" for key in path)


def check_patterns(parameters: optax.Params, patterns: Sequence[str], setting: str) -> None:
    """Raises a UserError that names ``config.optimizer.<setting>`` if a pattern matches no parameter's name."""
    leaves = jax.tree_util.tree_flatten_with_path(parameters)[0]
    names = [name for path, leaf in leaves for name in names_of(path, leaf)]
    unused = sorted(pattern for pattern in patterns if not any(re.search(pattern, name) for name in names))
    if unused:
        raise UserError(
            f"config.optimizer.{setting}: no parameter's name matches {', '.join(map(repr, unused))}. Use a pattern "
            "that matches names like vision/transformer/blocks/3/mlp_in/kernel."
        )
