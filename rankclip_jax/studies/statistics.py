"""Statistics of a study: paired bootstrap intervals of the difference between two arms."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

LEVEL = 0.95
_DRAWS, _CHUNK = 20_000, 500

Pair = tuple[Sequence[np.ndarray], Sequence[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference of an arm to another in one column.

    Args:
      mean: over the seeds that both have.
      low: lower end of the interval.
      high: upper end of the interval.
      seeds: number of these seeds.
    """

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def differences(pairs: Mapping[str, Pair], comparisons: int = 1) -> dict[str, Difference]:
    """Returns the mean difference of each pair of arms and its interval, by a paired bootstrap over seeds and queries.

    Both seeds and queries are drawn with replacement, which gives intervals that are rather too wide (Owen, The
    pigeonhole bootstrap, 2007). Since few seeds vary too little when drawn so, their deviations from the mean are
    multiplied by ``sqrt(S / (S - 1))``. With one seed, the interval is over queries alone. The level is 95 %, divided
    among the comparisons (Bonferroni).

    Args:
      pairs: by name, the values of an arm and those of the other one, for the same seeds: each ``[queries]``, where all
        pairs have the same queries.
      comparisons: number of intervals that are to hold together.
    """
    if not pairs:
        return {}
    per_query = {name: np.stack(arm) - np.stack(other) for name, (arm, other) in pairs.items()}  # [seeds, queries]
    rows = np.concatenate(list(per_query.values()))
    rng, queries = np.random.default_rng(0), rows.shape[1]
    means = np.concatenate([_counts(rng, _CHUNK, queries) @ rows.T / queries for _ in range(_DRAWS // _CHUNK)])
    ends = np.cumsum([len(each) for each in per_query.values()])[:-1]
    tail = (1 - LEVEL) / comparisons / 2
    found = {}
    for (name, values), drawn in zip(per_query.items(), np.split(means, ends, axis=1), strict=True):
        low, high = np.quantile(_over_seeds(drawn, rng), [tail, 1 - tail])
        found[name] = Difference(float(values.mean()), float(low), float(high), len(values))
    return found


def _over_seeds(means: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns means over drawn seeds: ``[draws]``, from those of each seed: ``[draws, seeds]``."""
    draws, seeds = means.shape
    if seeds == 1:
        return means[:, 0]
    excess = _counts(rng, draws, seeds) / seeds - 1 / seeds
    return means.mean(axis=1) + np.sqrt(seeds / (seeds - 1)) * (excess * means).sum(axis=1)


def _counts(rng: np.random.Generator, draws: int, size: int) -> np.ndarray:
    """Returns how often each of ``size`` items is drawn when drawing ``size`` with replacement: ``[draws, size]``."""
    drawn = rng.integers(size, size=(draws, size)) + size * np.arange(draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * size).reshape(draws, size).astype(np.float64)
