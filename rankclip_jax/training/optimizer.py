"""Optimisers by name, with CLIP's exemptions from weight decay, and overrides by pattern."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict
from optax.contrib import MuonDimensionNumbers

from rankclip_jax.input_pipeline.errors import UserError

_NOT_DECAYED = {"bias", "scale", "class_embedding", "logit_scale"}
_MODULES = ("vision", "text", "head")  # what else stands at the top are scalars
_MUON_RMS = 0.2  # Muon's updates are scaled to AdamW's usual size, so that they take its rates (Liu et al., 2025)

Overrides = Sequence[tuple[str, float]]


def build(config: ConfigDict, learning_rate: optax.Schedule, parameters: optax.Params) -> optax.GradientTransformation:
    """The named optimiser with decoupled decay, after clipping to a global norm where asked.

    Parameters that are frozen as a whole have no state, and count for nothing in the norm.

    Args:
      config: the settings under ``config.optimizer``.
      learning_rate: of each update.
      parameters: what is learned, or its shapes.

    Raises:
      UserError: a pattern is in no parameter's name.
    """
    parts = [OPTIMIZERS[config.name](config), _decay(config)]
    if config.rate_overrides:

        def scale(updates: optax.Updates, _: optax.Params | None) -> optax.Updates:
            factors = by_pattern(updates, lambda _: 1.0, config.rate_overrides)
            return jax.tree.map(jnp.multiply, updates, factors)

        parts.append(optax.stateless(scale))
    optimizer = optax.chain(*parts, optax.scale_by_learning_rate(learning_rate))
    if config.gradient_clip:
        optimizer = optax.chain(optax.clip_by_global_norm(config.gradient_clip), optimizer)
    for setting in ("rate_overrides", "decay_overrides"):
        _check_patterns(parameters, [pattern for pattern, _ in config[setting]], setting)
    masks = frozen_masks(parameters, config.frozen)
    if not config.frozen:
        return optimizer
    labels = jax.tree.map(lambda mask: "frozen" if mask.all() else "trained", masks)
    trained = jax.tree.map(lambda mask: np.float32(1 - mask), masks)
    parted = optax.multi_transform({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)
    keep = optax.stateless(
        lambda updates, _: jax.tree.map(lambda x, kept: (x * kept).astype(x.dtype), updates, trained)
    )
    return optax.chain(parted, keep)  # of stacked blocks, some may be frozen


def frozen_masks(parameters: optax.Params, patterns: Sequence[str]) -> Any:
    """For each parameter whether it is frozen, bool ``[]``; of stacked blocks, one for each, ``[layers, 1, ...]``.

    Raises:
      UserError: a pattern is in no parameter's name.
    """
    patterns = [*patterns]
    _check_patterns(parameters, patterns, "frozen")
    masks = by_pattern(parameters, lambda _: 0.0, [(pattern, 1.0) for pattern in patterns])
    return jax.tree.map(lambda mask: mask.astype(bool), masks)


def decayed(parameters: optax.Params) -> optax.Params:
    """Which parameters decay: all but biases, norms' scales, the class embedding and learned scalars."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _decays(path), parameters)


def _decays(path: tuple) -> bool:
    return path[-1].key not in _NOT_DECAYED and path[0].key in _MODULES


def _decay(config: ConfigDict) -> optax.GradientTransformation:
    if not config.decay_overrides:
        return optax.add_decayed_weights(config.weight_decay, mask=decayed)

    def add(updates: optax.Updates, parameters: optax.Params | None) -> optax.Updates:
        assert parameters is not None
        weights = by_pattern(parameters, lambda path: config.weight_decay * _decays(path), config.decay_overrides)
        return jax.tree.map(lambda update, weight, value: update + weight * value, updates, weights, parameters)

    return optax.stateless(add)


def by_pattern(parameters: optax.Params, default: Callable[[tuple], float], overrides: Overrides) -> optax.Params:
    """For each parameter the number of the first pattern found in its name, float32 ``[]``.

    Where blocks are stacked, that is one for each, ``[layers, 1, ...]``. Names are as `names_of` gives them.
    """

    def number(name: str, path: tuple) -> float:
        return next((value for pattern, value in overrides if re.search(pattern, name)), default(path))

    def numbers(path: tuple, leaf: Any) -> np.ndarray:
        names = names_of(path, leaf)
        found = np.asarray([number(name, path) for name in names], np.float32)
        return found[0] if len(names) == 1 and not _is_stacked(path) else found.reshape(-1, *[1] * (leaf.ndim - 1))

    return jax.tree_util.tree_map_with_path(numbers, parameters)


def names_of(path: tuple, leaf: Any) -> list[str]:
    """A parameter's name, such as ``vision/projection/kernel``; where blocks are stacked, that of each.

    Those are such as ``vision/transformer/blocks/3/mlp_in/kernel``.
    """
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if not _is_stacked(path):
        return [name]
    return [name.replace("/blocks/", f"/blocks/{layer}/") for layer in range(leaf.shape[0])]


def _is_stacked(path: tuple) -> bool:
    return any(getattr(key, "key", None) == "blocks" for key in path)


def _check_patterns(parameters: optax.Params, patterns: Sequence[str], setting: str) -> None:
    leaves = jax.tree_util.tree_flatten_with_path(parameters)[0]
    names = [name for path, leaf in leaves for name in names_of(path, leaf)]
    unused = sorted(pattern for pattern in patterns if not any(re.search(pattern, name) for name in names))
    if unused:
        raise UserError(
            f"config.optimizer.{setting}: no parameter has a name with {', '.join(map(repr, unused))}. Names "
            "are such as vision/transformer/blocks/3/mlp_in/kernel."
        )


def _muon(config: ConfigDict) -> optax.GradientTransformation:
    """Momentum made orthogonal for the matrices inside blocks, each layer's by itself; Adam for all else."""

    def matrices(parameters: optax.Params) -> optax.Params:
        def dimensions(path: tuple, leaf: Any) -> MuonDimensionNumbers | None:
            stacked = _is_stacked(path) and leaf.ndim == 3
            return MuonDimensionNumbers(1, 2) if stacked else None

        return jax.tree_util.tree_map_with_path(dimensions, parameters)

    return optax.contrib.muon(
        -1.0,  # the direction alone: `build` takes it down the gradient at the rate of the schedule
        beta=config.b1,
        eps=config.eps,
        mu_dtype=config.mu_dtype,
        adam_b1=config.b1,
        adam_b2=config.b2,
        muon_weight_dimension_numbers=matrices,
        consistent_rms=_MUON_RMS,
    )


# Each gives the direction of an update from the settings under ``config.optimizer``; decay and rate come after.
OPTIMIZERS: dict[str, Callable[[ConfigDict], optax.GradientTransformation]] = {
    # Loshchilov and Hutter, 2019
    "adamw": lambda config: optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps, mu_dtype=config.mu_dtype),
    # Chen et al., 2023; its rates are three to ten times smaller than AdamW's
    "lion": lambda config: optax.scale_by_lion(b1=config.b1, b2=config.b2, mu_dtype=config.mu_dtype),
    # Shazeer and Stern, 2018, as used by Zhai et al., 2022: factored second moments, momentum
    "adafactor": lambda config: optax.chain(
        optax.scale_by_factored_rms(),
        optax.clip_by_block_rms(1.0),
        optax.ema(config.b1, debias=False, accumulator_dtype=config.mu_dtype),
    ),
    # Jordan et al., 2024
    "muon": _muon,
}
