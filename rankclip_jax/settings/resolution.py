"""A run's settings: what they must satisfy, and how two sets of them differ."""

import json
import re
from collections.abc import Iterable
from typing import Any

import jax
from ml_collections import ConfigDict

from rankclip_jax import recipes
from rankclip_jax.input_pipeline import SOURCES
from rankclip_jax.input_pipeline.augmentation import CROPS, POLICIES
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.models import attention, remat
from rankclip_jax.models.presets import PRESETS, ResNetPreset, preset_of, to_sizes
from rankclip_jax.models.transformer import ACTIVATIONS
from rankclip_jax.models.vision_transformer import POOLINGS
from rankclip_jax.objectives import OBJECTIVES, options_of
from rankclip_jax.objectives.products import PRECISIONS
from rankclip_jax.planning import hardware
from rankclip_jax.recipes import flatten
from rankclip_jax.settings import ranges
from rankclip_jax.training import schedule
from rankclip_jax.training.optimizer import OPTIMIZERS

# Settings that change what a run shows, how fast it goes or where it lies, never what its parameters mean: free to
# change on resuming.
_FREE = (
    *("logging.", "checkpoint.", "evaluation.", "data.threads", "data.workers", "data.max_unreadable_fraction"),
    *(
        "mesh.",
        "processes.",
        "train.accumulation",
        "train.on_nonfinite",
        "train.max_nonfinite_steps",
        "model.remat",
        "model.scan_layers",
        "model.attention",
    ),
)
_SIZES = "model.sizes."
LENGTH = ("train.steps", "train.epochs")  # changed on resuming where the learning rate allows it
WEIGHTS = ("latest", "ema")

_CHOICES: dict[str, Iterable[str]] = {
    "data.source": SOURCES,
    "data.crop": CROPS,
    "data.auto_augment": POLICIES,
    "model.name": PRESETS,
    "model.dtype": ("auto", "float32", "bfloat16"),
    "model.activation": ACTIVATIONS,
    "model.pooling": POOLINGS,
    "model.frozen": ("", "vision", "text"),
    "model.attention": attention.IMPLEMENTATIONS,
    "model.remat": remat.CHOICES,
    "objective.name": OBJECTIVES,
    "objective.precision": ("auto", *PRECISIONS),
    "optimizer.name": OPTIMIZERS,
    "optimizer.schedule": schedule.SCHEDULES,
    "optimizer.mu_dtype": ("float32", "bfloat16"),
    "evaluation.weights": WEIGHTS,
    "logging.wandb": ("", "offline", "online"),
    "train.on_nonfinite": ("stop", "skip", "rollback"),
}


def check(config: ConfigDict, device_count: int, platform: str | None = None) -> None:
    """Raises UserError for settings that no run can have, naming the flag that mends it.

    Args:
      config: the settings.
      device_count: of all processes.
      platform: ``"gpu"``, ``"tpu"`` or ``"cpu"``; None: the one that is here.
    """
    check_parts(config)
    _check_sizes(config.model)
    _check_model(config.model, platform or jax.default_backend())
    options_of(OBJECTIVES[config.objective.name], config.objective)
    train = config.train
    if config.objective.list_size > train.global_batch_size:
        raise UserError(
            f"config.objective.list_size: expected 0 (all) to {train.global_batch_size}, the batch; "
            f"found {config.objective.list_size}."
        )
    if train.global_batch_size % device_count:
        below = train.global_batch_size // device_count * device_count
        raise UserError(
            f"config.train.global_batch_size: {train.global_batch_size} pairs cannot be split evenly over "
            f"{device_count} devices. Take a multiple of {device_count}, such as "
            f"--config.train.global_batch_size={below or device_count}."
        )
    _check_accumulation(config, device_count)
    if bool(train.steps) == bool(train.epochs):
        raise UserError(
            f"config.train: expected either steps or epochs; found steps={train.steps} and epochs={train.epochs}. "
            "Set the one that is not meant to 0, such as --config.train.epochs=0."
        )
    if config.evaluation.weights == "ema" and not config.optimizer.ema_decay:
        raise UserError(
            "config.evaluation.weights: there is no average of the weights. Keep one with "
            "--config.optimizer.ema_decay=0.999, or say --config.evaluation.weights=latest."
        )


def _check_accumulation(config: ConfigDict, device_count: int) -> None:
    count, rows = config.train.accumulation, config.train.global_batch_size // device_count
    if rows % count:
        fitting = max(number for number in range(1, count) if rows % number == 0)
        raise UserError(
            f"config.train.accumulation: the {rows} pairs of a device cannot be split evenly into {count} "
            f"micro-batches. Say --config.train.accumulation={fitting}, or take another batch."
        )
    if count > 1 and isinstance(preset_of(config.model).vision, ResNetPreset) and config.model.frozen != "vision":
        raise UserError(
            f"config.train.accumulation: {config.model.name} normalises by the statistics of the whole batch, which "
            f"{count} micro-batches do not have: they would train another model. Say --config.train.accumulation=1 "
            "and --config.model.remat=blocks, or take more devices or a ViT preset."
        )


def check_parts(config: ConfigDict) -> None:
    """Raises UserError for settings that are absent, unknown or by themselves not what they can be."""
    check_form(config)
    check_choices(config)


def check_form(config: ConfigDict) -> None:
    """The same but for words that name code, which a run's recipe may have added and reading a run may do without."""
    values, known = _without_sizes(flatten(config.to_dict())), dict(flatten(recipes.base().to_dict()))
    if missing := sorted(known.keys() - values.keys()):
        raise UserError(
            f"--config: the recipe lacks config.{missing[0]}. Begin it with the base's settings: config = base()."
        )
    if unknown := sorted(values.keys() - known.keys()):
        raise UserError(f"--config: the recipe has config.{unknown[0]}, which no part of the system reads.")
    for name, default in known.items():
        if isinstance(default, bool | str) and type(values[name]) is not type(default):
            raise UserError(
                f"config.{name}: expected a {type(default).__name__}, as {default!r}; found {values[name]!r}."
            )
    ranges.check(values)
    for name, value in values.items():
        if isinstance(known[name], int) and not isinstance(value, int):
            raise UserError(f"config.{name}: expected a whole number; found {value!r}.")
    _check_together(config)


def _check_together(config: ConfigDict) -> None:
    """Raises UserError for numbers and patterns that are each in range and not what they can be."""
    if config.model.sizes:
        preset_of(config.model)
    low, high = config.data.crop_scale
    if low > high:
        raise UserError(
            f"config.data.crop_scale: expected the smaller share first; found {tuple(config.data.crop_scale)}."
        )
    first, last = config.logging.profile_steps
    if first > last or (last and not first):
        raise UserError(
            f"config.logging.profile_steps: expected the first and the last step, from 1, or (0, 0) for none; found "
            f"{(first, last)}."
        )
    if config.data.source == "csv" and len(config.data.delimiter.replace("\\t", "\t")) > 1:
        raise UserError(f"config.data.delimiter: expected one character, or none; found {config.data.delimiter!r}.")
    values = dict(flatten(config.to_dict()))
    for name in ranges.PAIRS:
        for pattern, _ in values[name]:  # type: ignore[attr-defined]
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(f"config.{name}: {pattern!r} is not a regular expression: {error}.") from error


def check_choices(config: ConfigDict, *sections: str) -> None:
    """Raises UserError for a word that is none of its choices.

    Args:
      config: the settings.
      sections: of a run that is read, those that are needed of it; none: all, of a run that is trained.
    """
    values: dict[str, Any] = dict(flatten(config.to_dict()))
    for name, choices in _CHOICES.items():
        if (sections and name.partition(".")[0] not in sections) or values[name] in choices:
            continue
        if name == "model.name" and config.model.sizes:
            continue
        advice = (
            " If a recipe or module of yours adds it, name the recipe with --config RECIPE, or import the module first."
            if sections
            else ""
        )
        raise UserError(f"config.{name}: no {values[name]!r}; there are {', '.join(map(repr, choices))}.{advice}")


def _without_sizes(values: Iterable[tuple[str, object]]) -> dict[str, object]:
    return {name: value for name, value in values if not name.startswith(_SIZES)}


def unknown_names(values: Iterable[str]) -> list[str]:
    """Dotted names that are no settings of ``configs/base.py``."""
    known = {name for name, _ in flatten(recipes.base().to_dict())}
    return sorted(name for name in values if name not in known and not name.startswith(_SIZES))


def with_sizes(config: ConfigDict) -> ConfigDict:
    """A copy of the settings that says in ``model.sizes`` what its preset is: reading the run needs no table."""
    resolved = config.copy_and_resolve_references()
    with resolved.unlocked():
        resolved.model.sizes = to_sizes(preset_of(config.model))
    return resolved


def _check_sizes(model: ConfigDict) -> None:
    if model.sizes and model.name in PRESETS and preset_of(model) != PRESETS[model.name]:
        raise UserError(
            f"config.model.sizes: {model.name} is the name of a preset of other sizes, which exports go by. "
            "Use another name for the model: --config.model.name=NAME"
        )


def _check_model(model: ConfigDict, platform: str) -> None:
    if model.attention == "cudnn" and (model.dtype == "float32" or platform != "gpu"):
        raise UserError(
            f"config.model.attention: cudnn needs an NVIDIA GPU and bfloat16; found {platform} and "
            f"{model.dtype}. Use --config.model.attention=auto, or add --config.model.dtype=bfloat16 on such a GPU."
        )
    vision = preset_of(model).vision
    if model.image_size % vision.stride:
        size = max(round(model.image_size / vision.stride), 1) * vision.stride
        raise UserError(
            f"config.model.image_size: expected a multiple of {vision.stride} for {model.name}; found "
            f"{model.image_size}. Say --config.model.image_size={size}, or 0 for {vision.image_size}."
        )
    for name, default in (("patch_dropout", 0), ("pooling", "class_token")):
        if isinstance(vision, ResNetPreset) and model[name] != default:
            raise UserError(
                f"config.model.{name}: {model.name} has no patches. Say --config.model.{name}={default}, or take a ViT "
                "preset."
            )


def resolve_dtype(config: ConfigDict, device: jax.Device) -> ConfigDict:
    """The settings with what they leave to the device decided: ``model.dtype`` is a type, where it was ``"auto"``.

    Args:
      config: checked settings; they stay as they are.
      device: one of those that compute.
    """
    if config.model.dtype != "auto":
        return config
    resolved = config.copy_and_resolve_references()
    resolved.model.dtype = "bfloat16" if hardware.has_fast_bfloat16(device) else "float32"
    return resolved


def image_size(config: ConfigDict) -> int:
    """Side of the images in pixels."""
    return config.model.image_size or preset_of(config.model).vision.image_size


def total_steps(config: ConfigDict, examples: int) -> int:
    """Length of the run; an epoch of ``examples`` counts as many steps as their share of a batch, at least one."""
    return config.train.steps or max(config.train.epochs * examples // config.train.global_batch_size, 1)


def warmup(config: ConfigDict, examples: int) -> int:
    """Steps of warmup, by share or by number."""
    return schedule.warmup_length(config.optimizer, total_steps(config, examples))


def to_dict(config: ConfigDict) -> dict:
    """The settings as plain values, as they look after a trip through JSON."""
    return json.loads(json.dumps(config.to_dict()))


def differences(stored: dict, config: dict) -> list[str]:
    """How ``config`` differs from ``stored`` where it matters to the parameters, a line each; but for the length."""
    old, new = dict(flatten(stored)), dict(flatten(config))
    return [
        f"config.{name}: {old[name]!r} there, {new[name]!r} now"
        for name in sorted(old.keys() & new.keys())
        if old[name] != new[name] and not name.startswith(_FREE) and name not in LENGTH
    ]
