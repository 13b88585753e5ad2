"""Searches over plans: the largest batch that fits, a sweep of layouts, and changes that make a step fit."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.planning.plan import Plan

Planner = Callable[[ConfigDict], Plan]

_LARGEST_BATCH = 2**20

# Changes that trade recomputation for memory, from the least to the most recomputation.
_FRUGAL: tuple[dict[str, Any], ...] = (
    {"model.remat": "cheap"},
    {"model.remat": "blocks"},
    *({"model.remat": "cheap", "train.accumulation": count} for count in (4, 16)),
    *({"model.remat": "blocks", "train.accumulation": count} for count in (16, 64)),
)


def changed(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """Returns a copy of the settings with changes by dotted names."""
    copy = config.copy_and_resolve_references()
    copy.update_from_flattened_dict(dict(changes))
    return copy


def as_flags(changes: Mapping[str, Any]) -> str:
    """Returns changes as command-line flags."""
    return " ".join(f"--config.{name}={value}" for name, value in changes.items())


def largest_batch(config: ConfigDict, planner: Planner, multiple: int) -> tuple[Plan, list[Plan]]:
    """Returns the plan of the largest batch that fits, and all plans that were tried, in order.

    A step's memory grows linearly with the batch, so two plans predict the limit; batches near it are then tried.

    Args:
      config: the settings, whose batch is tried first.
      planner: plans settings.
      multiple: the number that batches are a multiple of: devices times micro-batches.

    Raises:
      UserError: not even one row per device fits.
    """
    tried: dict[int, Plan] = {}

    def fits(count: int) -> bool:
        if count not in tried:
            tried[count] = planner(changed(config, {"train.global_batch_size": count * multiple}))
        return tried[count].fits

    first = max(config.train.global_batch_size // multiple, 1)
    good, bad = (first, _LARGEST_BATCH // multiple + 1) if fits(first) else (0, first)
    if good == 0 and not fits(1):
        raise UserError(f"--find: not even {multiple} pairs fit in memory. Use a smaller model or more memory.")
    good = max(good, 1)
    # Guess by linear extrapolation from two plans, limited to the remaining interval.
    while bad - good > good // 32 + 1:
        guess = _crossing(tried, good, bad)
        if fits(guess):
            good = guess
        else:
            bad = guess
    return tried[good], list(tried.values())


def _crossing(tried: Mapping[int, Plan], good: int, bad: int) -> int:
    points = sorted((count, plan.bytes["total"]) for count, plan in tried.items() if "total" in plan.bytes)
    capacity = next(iter(tried.values())).bytes["capacity"]
    guess = 2 * good
    if len(points) > 1:
        (low, less), (high, more) = points[-2], points[-1]
        slope = (more - less) / (high - low)
        guess = int(low + (capacity - less) / slope * 0.995) if slope > 0 else guess
    return min(max(guess, good + 1), bad - 1)


def sweep(config: ConfigDict, planner: Planner, devices: int, devices_per_host: int) -> Iterator[tuple[dict, Plan]]:
    """Yields plans of meshes, remat policies and accumulation, each with its changes to the settings.

    Args:
      config: the settings.
      planner: plans settings.
      devices: number of devices.
      devices_per_host: devices with fast links, which may share one copy of the weights.
    """
    groups = [size for size in (1, devices_per_host) if devices % size == 0]
    choices = itertools.product(dict.fromkeys(groups), ("none", "cheap", "blocks"), (1, 4, 16))
    for fsdp, remat, accumulation in choices:
        changes = {
            "mesh.replica": 1,
            "mesh.data": -1,
            "mesh.fsdp": fsdp,
            "model.remat": remat,
            "train.accumulation": accumulation,
        }
        try:
            yield changes, planner(changed(config, changes))
        except UserError:
            continue  # such as a number of micro-batches that does not divide a device's rows


def find_fitting(config: ConfigDict, fits: Callable[[ConfigDict], bool]) -> dict[str, Any] | None:
    """Returns the changes with the least recomputation with which the settings fit; None: no tried change fits."""
    for changes in _FRUGAL:
        try:
            if fits(changed(config, changes)):
                return changes
        except UserError:
            continue
    return None
