"""Optimizers by name, with CLIP's exemptions from weight decay, and per-parameter overrides by pattern."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict
from optax.contrib import MuonDimensionNumbers

from rankclip_jax.models.lora import LORA, adapted
from rankclip_jax.models.parameter_names import by_pattern, check_patterns, is_stacked

_NOT_DECAYED = {"bias", "scale", "class_embedding", "logit_scale"}
_MODULES = ("vision", "text", "head", LORA)  # all other top-level parameters are scalars
_MUON_RMS = 0.2  # scales Muon's updates to AdamW's usual RMS, so that AdamW's learning rates fit (Liu et al., 2025)


def build(config: ConfigDict, learning_rate: optax.Schedule, parameters: optax.Params) -> optax.GradientTransformation:
    """Builds the named optimizer with decoupled weight decay and optional clipping by global norm.

    Parameters that are frozen as a whole have no optimizer state, and are excluded from the norm.

    Args:
      config: the settings under ``config.optimizer``.
      learning_rate: the learning rate schedule.
      parameters: the parameters, or their shapes.

    Raises:
      UserError: a pattern matches no parameter's name.
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
        check_patterns(parameters, [pattern for pattern, _ in config[setting]], setting)
    masks = frozen_masks(parameters, config.frozen)
    if not any(mask.any() for mask in jax.tree.leaves(masks)):
        return optimizer
    labels = jax.tree.map(lambda mask: "frozen" if mask.all() else "trained", masks)
    trained = jax.tree.map(lambda mask: np.float32(1 - mask), masks)
    parted = optax.multi_transform({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)
    keep = optax.stateless(
        lambda updates, _: jax.tree.map(lambda x, kept: (x * kept).astype(x.dtype), updates, trained)
    )
    return optax.chain(parted, keep)  # `keep` freezes single blocks of a stack


def frozen_masks(parameters: optax.Params, patterns: Sequence[str]) -> Any:
    """Returns whether each parameter is frozen, bool ``[]``; for stacked blocks one per block, ``[layers, 1, ...]``.

    Kernels with LoRA matrices are frozen; the matrices themselves never are.

    Raises:
      UserError: a pattern matches no parameter's name.
    """
    model = {name: value for name, value in parameters.items() if name != LORA}
    check_patterns(model, patterns, "frozen")
    masks = flatten_dict(by_pattern(parameters, lambda _: 0.0, [(pattern, 1.0) for pattern in patterns]))
    fixed = adapted(parameters)

    def mask(path: tuple[str, ...]) -> np.ndarray:
        if path[0] == LORA:
            return np.zeros_like(masks[path], bool)
        return masks[path].astype(bool) | (path in fixed)

    return unflatten_dict({path: mask(path) for path in masks})


def decayed(parameters: optax.Params) -> optax.Params:
    """Returns the weight decay mask: True for all but biases, norm scales, the class embedding and learned scalars."""
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


def _muon(config: ConfigDict) -> optax.GradientTransformation:
    """Returns Muon for the matrices inside blocks, orthogonalised per layer, and Adam for all other parameters."""

    def matrices(parameters: optax.Params) -> optax.Params:
        def dimensions(path: tuple, leaf: Any) -> MuonDimensionNumbers | None:
            stacked = is_stacked(path) and leaf.ndim == 3
            return MuonDimensionNumbers(1, 2) if stacked else None

        return jax.tree_util.tree_map_with_path(dimensions, parameters)

    return optax.contrib.muon(
        -1.0,  # only the direction: `build` applies the sign and the learning rate schedule
        beta=config.b1,
        eps=config.eps,
        mu_dtype=config.mu_dtype,
        adam_b1=config.b1,
        adam_b2=config.b2,
        muon_weight_dimension_numbers=matrices,
        consistent_rms=_MUON_RMS,
    )


# Each returns the update direction from the settings under ``config.optimizer``; decay and learning rate come after.
OPTIMIZERS: dict[str, Callable[[ConfigDict], optax.GradientTransformation]] = {
    # Loshchilov and Hutter, 2019
    "adamw": lambda config: optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps, mu_dtype=config.mu_dtype),
    # Chen et al., 2023; its learning rates are three to ten times smaller than AdamW's
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
