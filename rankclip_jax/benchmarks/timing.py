"""Seconds of things beside each other: they take turns, so that a drifting machine is fair to all."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

_TURNS = 5

Timed = Callable[[int], float]


def timed(work: Callable[[], Any]) -> Timed:
    """Does the work so many times and tells the mean seconds, until its last results are there."""

    def take(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            results = work()
        jax.block_until_ready(results)
        return (time.perf_counter() - start) / count

    return take


def medians_in_turn(versions: Mapping[str, Timed], count: int = 1) -> dict[str, float]:
    """Median seconds of each version over some turns of ``count`` times; one turn before them warms up."""
    for take in versions.values():
        take(count)
    turns = [{name: take(count) for name, take in versions.items()} for _ in range(_TURNS)]
    return {name: statistics.median(turn[name] for turn in turns) for name in versions}
