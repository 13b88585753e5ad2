"""Plans beside each other: the largest batch that fits, the best of many arrangements, what makes a step fit."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.planning.plan import Plan

Planner = Callable[[ConfigDict], Plan]

_LARGEST_BATCH = 2**20

# From the cheapest to the most frugal: what is computed again for the sake of memory.
_FRUGAL: tuple[dict[str, Any], ...] = (
    {"model.remat": "cheap"},
    {"model.remat": "blocks"},
    *({"model.remat": "cheap", "train.accumulation": count} for count in (4, 16)),
    *({"model.remat": "blocks", "train.accumulation": count} for count in (16, 64)),
)


def changed(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """A copy of the settings with changes by dotted names."""
    copy = config.copy_and_resolve_references()
    copy.update_from_flattened_dict(dict(changes))
    return copy


def as_flags(changes: Mapping[str, Any]) -> str:
    """Changes as they are written on a command line."""
    return " ".join(f"--config.{name}={value}" for name, value in changes.items())


def largest_batch(config: ConfigDict, planner: Planner, multiple: int) -> tuple[Plan, list[Plan]]:
    """The plan of the largest batch that fits, and all that were tried, in turn.

    What a step takes grows evenly with the batch, so two plans tell where the limit is; those near it are tried.

    Args:
      config: the settings, whose batch is tried first.
      planner: plans settings.
      multiple: of which batches are: devices times micro-batches.

    Raises:
      UserError: not even one row a device fits.
    """
    tried: dict[int, Plan] = {}

    def fits(count: int) -> bool:
        if count not in tried:
            tried[count] = planner(changed(config, {"train.global_batch_size": count * multiple}))
        return tried[count].fits

    first = max(config.train.global_batch_size // multiple, 1)
    good, bad = (first, _LARGEST_BATCH // multiple + 1) if fits(first) else (0, first)
    if good == 0 and not fits(1):
        raise UserError(f"--find: not even {multiple} pairs fit. Take a smaller model or more memory.")
    good = max(good, 1)
    # The middle of what is left, or where a straight line through two plans says.
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


def sweep(config: ConfigDict, planner: Planner, devices: int, devices_a_host: int) -> Iterator[tuple[dict, Plan]]:
    """Plans of meshes, rematerialisation and accumulation, each with the changes that it makes.

    Args:
      config: the settings.
      planner: plans settings.
      devices: all of them.
      devices_a_host: those that may share one copy of the weights over fast links.
    """
    groups = [size for size in (1, devices_a_host) if devices % size == 0]
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
            continue  # such as micro-batches that the rows of a device do not make up


def find_fitting(config: ConfigDict, fits: Callable[[ConfigDict], bool]) -> dict[str, Any] | None:
    """The changes, computing as little again as possible, with which settings fit; None: none of those tried."""
    for changes in _FRUGAL:
        try:
            if fits(changed(config, changes)):
                return changes
        except UserError:
            continue
    return None
