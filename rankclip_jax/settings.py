"""A run's settings: what they must satisfy, and how two sets of them differ."""

import json
from collections.abc import Iterator

import jax
from ml_collections import ConfigDict

from input_pipeline.augmentation import POLICIES
from input_pipeline.errors import UserError
from rankclip_jax.models.presets import PRESETS, ResNetPreset
from rankclip_jax.models.transformer import ACTIVATIONS
from rankclip_jax.objectives import OBJECTIVES

# Settings that change what a run shows or how fast it goes, never its parameters: free to change on resuming.
_FREE = ("logging.", "checkpoint.", "evaluation.", "data.threads", "data.workers", "data.max_unreadable_share")


def check(config: ConfigDict, device_count: int) -> None:
    """Raises UserError for settings that no run can have, naming the flag that mends it."""
    _check_choice("config.model.name", config.model.name, PRESETS)
    _check_choice("config.model.dtype", config.model.dtype, ("float32", "bfloat16"))
    _check_choice("config.model.activation", config.model.activation, ACTIVATIONS)
    _check_model(config.model)
    check_data(config.data)
    _check_choice("config.objective.name", config.objective.name, OBJECTIVES)
    _check_choice("config.objective.variant", config.objective.variant, ("exact", "released"))
    for name in ("logging.every_steps", "checkpoint.every_steps", "checkpoint.keep", "data.threads"):
        section, key = name.split(".")
        if config[section][key] < 1:
            raise UserError(f"config.{name}: expected at least 1; found {config[section][key]}.")
    _check_objective(config)
    train = config.train
    if train.global_batch_size < 2 or train.global_batch_size % device_count:
        below = max(train.global_batch_size // device_count, 1) * device_count
        raise UserError(
            f"config.train.global_batch_size: {train.global_batch_size} pairs cannot be split evenly over "
            f"{device_count} devices. Take a multiple of {device_count}, such as "
            f"--config.train.global_batch_size={max(below, 2)}."
        )
    if (train.steps > 0) == (train.epochs > 0) or min(train.steps, train.epochs) < 0:
        raise UserError(
            f"config.train: expected either steps or epochs; found steps={train.steps} and epochs={train.epochs}. "
            "Set the one that is not meant to 0, such as --config.train.epochs=0."
        )


def check_data(data: ConfigDict) -> None:
    """Raises UserError for settings under ``config.data`` that no data can have."""
    _check_choice("config.data.auto_augment", data.auto_augment, POLICIES)
    low, high = data.crop_scale if len(data.crop_scale) == 2 else (0, 0)
    if not 0 < low <= high <= 1:
        raise UserError(f"config.data.crop_scale: expected two shares, 0 < low <= high <= 1; found {data.crop_scale}.")
    if not 0 <= data.flip <= 1:
        raise UserError(f"config.data.flip: expected a probability; found {data.flip}.")
    jitter = tuple(data.color_jitter)
    if len(jitter) != 4 or min(jitter) < 0 or jitter[3] > 0.5:
        raise UserError(
            "config.data.color_jitter: expected shares of brightness, contrast, saturation and hue, the last at most "
            f"0.5; found {jitter}."
        )
    if data.workers < -1:
        raise UserError(f"config.data.workers: expected -1 (from the cores) or more; found {data.workers}.")


def _check_model(model: ConfigDict) -> None:
    _check_choice("config.model.frozen", model.frozen, ("", "vision", "text"))
    _check_choice("config.model.attention", model.attention, ("xla", "cudnn"))
    if model.attention == "cudnn" and (model.dtype != "bfloat16" or jax.default_backend() != "gpu"):
        raise UserError(
            f"config.model.attention: cudnn needs an NVIDIA GPU and bfloat16; found {jax.default_backend()} and "
            f"{model.dtype}. Take --config.model.attention=xla, or add --config.model.dtype=bfloat16 on such a GPU."
        )
    vision = PRESETS[model.name].vision
    if model.image_size < 0 or model.image_size % vision.stride:
        size = max(round(model.image_size / vision.stride), 1) * vision.stride
        raise UserError(
            f"config.model.image_size: expected a multiple of {vision.stride} for {model.name}; found "
            f"{model.image_size}. Say --config.model.image_size={size}, or 0 for {vision.image_size}."
        )
    if not 0 <= model.patch_dropout < 1:
        raise UserError(f"config.model.patch_dropout: expected a share in [0, 1); found {model.patch_dropout}.")
    if model.patch_dropout and isinstance(vision, ResNetPreset):
        raise UserError(
            f"config.model.patch_dropout: {model.name} has no patches. Say --config.model.patch_dropout=0, or take a "
            "ViT preset."
        )


def _check_objective(config: ConfigDict) -> None:
    objective = config.objective
    for name in ("ramp", "distillation_ramp"):
        values = objective[name]
        if len(values) != 3 or not 0 <= values[2] <= 1:
            raise UserError(f"config.objective.{name}: expected (from, to, share); found {tuple(values)}.")
    if not 0 <= objective.list_size <= config.train.global_batch_size:
        raise UserError(
            f"config.objective.list_size: expected 0 (all) to {config.train.global_batch_size}, the batch; "
            f"found {objective.list_size}."
        )
    if objective.ranking_scale not in ("learned", "learned_without_gradient"):
        try:
            float(objective.ranking_scale)
        except ValueError:
            raise UserError(
                "config.objective.ranking_scale: expected learned, learned_without_gradient or a number; "
                f"found {objective.ranking_scale!r}."
            ) from None
    if objective.name == "siglip" and not config.model.learn_logit_bias:
        raise UserError(
            "config.objective.name: siglip needs a learned bias. Add --config.model.learn_logit_bias=True, "
            "and --config.model.initial_logit_scale=10 to start as its paper does."
        )


def total_steps(config: ConfigDict, examples: int) -> int:
    """Length of the run; an epoch of ``examples`` counts as many steps as their share of a batch, at least one."""
    return config.train.steps or max(config.train.epochs * examples // config.train.global_batch_size, 1)


def flatten(config: dict, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted names and values: ``("train.steps", 500)``."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def to_dict(config: ConfigDict) -> dict:
    """The settings as plain values, as they look after a trip through JSON."""
    return json.loads(json.dumps(config.to_dict()))


def differences(stored: dict, config: dict) -> list[str]:
    """How ``config`` differs from ``stored`` where it matters to the parameters, a line for each setting."""
    old, new = dict(flatten(stored)), dict(flatten(config))
    return [
        f"config.{name}: {old.get(name, 'absent')!r} there, {new.get(name, 'absent')!r} now"
        for name in sorted(old | new)
        if old.get(name) != new.get(name) and not name.startswith(_FREE)
    ]


def _check_choice(flag: str, value: str, choices: object) -> None:
    names = list(choices)  # type: ignore[call-overload]
    if value not in names:
        raise UserError(f"{flag}: no {value!r}; there are {', '.join(names)}.")
