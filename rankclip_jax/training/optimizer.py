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
_OWN = ("vision", "text")  # what else stands at the top, but the logit scale, is a method's own
_MUON_RMS = 0.2  # Muon's updates are scaled to AdamW's usual size, so that they take its rates (Liu et al., 2025)

Overrides = Sequence[tuple[str, float]]


def build(
    config: ConfigDict, learning_rate: optax.Schedule, parameters: optax.Params, frozen: str = ""
) -> optax.GradientTransformation:
    """The named optimiser with decoupled decay, after clipping to a global norm where asked.

    Args:
      config: the settings under ``config.optimizer``.
      learning_rate: of each update.
      parameters: what is learned, or its shapes.
      frozen: the part of the model, ``"vision"`` or ``"text"``, that stays as it is and has no state; ``""``: none.

    Raises:
      UserError: an override's pattern is in no parameter's name.
    """
    learned = {part: values for part, values in parameters.items() if part != frozen}
    parts = [OPTIMIZERS[config.name](config), _decay(config, learned)]
    if config.rate_overrides:
        factors = _by_pattern(learned, lambda _: 1.0, config.rate_overrides, "rate_overrides")
        parts.append(optax.stateless(lambda updates, _: _where(factors, jnp.multiply, updates, factors)))
    optimizer = optax.chain(*parts, optax.scale_by_learning_rate(learning_rate))
    if config.gradient_clip:
        optimizer = optax.chain(optax.clip_by_global_norm(config.gradient_clip), optimizer)
    if not frozen:
        return optimizer
    return optax.multi_transform(
        {"learns": optimizer, "frozen": optax.set_to_zero()},
        lambda parameters: {part: "frozen" if part == frozen else "learns" for part in parameters},
    )


def decayed(parameters: optax.Params) -> optax.Params:
    """Which parameters decay: all but biases, norms' scales, the class embedding, the scale and a method's own."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _decays(path), parameters)


def _decays(path: tuple) -> bool:
    return path[-1].key not in _NOT_DECAYED and path[0].key in _OWN


def _decay(config: ConfigDict, parameters: optax.Params) -> optax.GradientTransformation:
    if not config.decay_overrides:
        return optax.add_decayed_weights(config.weight_decay, mask=decayed)
    weights = _by_pattern(
        parameters, lambda path: config.weight_decay * _decays(path), config.decay_overrides, "decay_overrides"
    )

    def add(updates: optax.Updates, parameters: optax.Params | None) -> optax.Updates:
        assert parameters is not None
        return _where(weights, lambda update, weight, value: update + weight * value, updates, weights, parameters)

    return optax.stateless(add)


def _where(
    parts: optax.Params, function: Callable[..., jax.Array], updates: optax.Updates, *more: Any
) -> optax.Updates:
    """Applies a function to the leaves of those parts that learn; optax puts a mask in the place of others."""
    changed = {part: jax.tree.map(function, updates[part], *(tree[part] for tree in more)) for part in parts}
    return {**updates, **changed}


def _by_pattern(
    parameters: optax.Params, default: Callable[[tuple], float], overrides: Overrides, setting: str
) -> optax.Params:
    """For each parameter the number of the first pattern found in its name.

    Where blocks are stacked, that is one for each. Names are such as ``vision/transformer/blocks/3/mlp_in/kernel``.
    """
    unused = {pattern for pattern, _ in overrides}

    def number(name: str, path: tuple) -> float:
        for pattern, value in overrides:
            if re.search(pattern, name):
                unused.discard(pattern)
                return value
        return default(path)

    def numbers(path: tuple, leaf: Any) -> np.ndarray:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if "/blocks/" not in name:
            return np.asarray(number(name, path), np.float32)
        layers = [number(name.replace("/blocks/", f"/blocks/{layer}/"), path) for layer in range(leaf.shape[0])]
        return np.asarray(layers, np.float32).reshape(-1, *[1] * (leaf.ndim - 1))

    tree = jax.tree_util.tree_map_with_path(numbers, parameters)
    if unused:
        raise UserError(
            f"config.optimizer.{setting}: no parameter has a name with {', '.join(map(repr, sorted(unused)))}. Names "
            "are such as vision/transformer/blocks/3/mlp_in/kernel."
        )
    return tree


def _muon(config: ConfigDict) -> optax.GradientTransformation:
    """Momentum made orthogonal for the matrices inside blocks, each layer's by itself; Adam for all else."""

    def matrices(parameters: optax.Params) -> optax.Params:
        def dimensions(path: tuple, leaf: Any) -> MuonDimensionNumbers | None:
            stacked = any(getattr(key, "key", None) == "blocks" for key in path) and leaf.ndim == 3
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
