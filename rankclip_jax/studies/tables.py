"""The tables of a study: means, differences at equal examples and at equal time, and what was tuned."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import number, read_json
from rankclip_jax.studies import statistics
from rankclip_jax.studies.definition import Study
from rankclip_jax.studies.results import Result
from rankclip_jax.studies.scheduler import Progress
from rankclip_jax.studies.statistics import Difference

COSTS = "costs.json"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One arm in one column.

    Args:
      mean: over its seeds; None: no results.
      difference: to the arm that it is compared with; None: it is not compared, or there are no seeds in common.
    """

    mean: float | None
    difference: Difference | None = None


Table = dict[str, dict[str, Cell]]  # cells by arm and column


class Tables:
    """The tables of a study, from the results that are there.

    Args:
      progress: the study and its results.
      costs: the time of a step of each arm as a multiple of the baseline's; see `read_costs`.
    """

    def __init__(self, progress: Progress, costs: Mapping[str, float]) -> None:
        self.study, self.results, self.costs = progress.study, progress.results, costs

    def seeds(self, arm: str) -> dict[int, Result]:
        """Returns an arm's results that did not fail, by seed."""
        found = {seed: self.results.get(f"{arm}/seed{seed}") for seed in range(1, self.study.seeds_of(arm) + 1)}
        return {seed: result for seed, result in found.items() if result is not None and not result.failed}

    def mean(self, arm: str, column: str) -> float | None:
        """Returns the mean of a column over an arm's seeds; None: no results."""
        values = [result.mean(self.study.report[column]) for result in self.seeds(arm).values()]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    def equal_examples(self, arms: Sequence[str]) -> Table:
        """Returns arms beside those that they are compared with, all trained on the same number of examples."""
        return self._compared(arms, lambda arm: {self.study.reference_of(arm): 1.0})

    def equal_time(self, arms: Sequence[str]) -> Table:
        """Returns arms beside the baseline trained for the same time, by the measured time of a step."""
        return self._compared(
            [arm for arm in arms if arm in self.costs], lambda arm: self._baseline_at(self.costs[arm])
        )

    def comparisons(self, arms: Sequence[str]) -> int:
        """Returns for how many comparisons the intervals of a table of arms are corrected."""
        return len(self._others(arms))

    def _others(self, arms: Sequence[str]) -> list[str]:
        return [arm for arm in arms if self.study.reference_of(arm) != arm]

    def _compared(self, arms: Sequence[str], reference: Callable[[str], Mapping[str, float]]) -> Table:
        table: Table = {arm: {} for arm in arms}
        compared = self._others(arms)
        for column in self.study.report:
            pairs = {arm: pair for arm in compared if (pair := self._pair(arm, reference(arm), column))}
            differences = statistics.differences(pairs, len(compared))
            for arm in arms:
                table[arm][column] = Cell(self.mean(arm, column), differences.get(arm))
        return {arm: cells for arm, cells in table.items() if any(cell.mean is not None for cell in cells.values())}

    def _pair(self, arm: str, reference: Mapping[str, float], column: str) -> statistics.Pair | None:
        """Returns the samples of an arm and of a weighted mean of others, for the seeds that all have."""
        each = {name: self._samples(name, column) for name in (arm, *reference)}
        common = sorted(set.intersection(*(set(samples) for samples in each.values())))
        if not common:
            return None
        arms = [each[arm][seed] for seed in common]
        weights = np.asarray(list(reference.values()))
        return arms, [np.tensordot(weights, [each[name][seed] for name in reference], 1) for seed in common]

    def _samples(self, arm: str, column: str) -> dict[int, np.ndarray]:
        found = {seed: result.samples(self.study.report[column]) for seed, result in self.seeds(arm).items()}
        return {seed: samples for seed, samples in found.items() if samples is not None}

    def _baseline_at(self, ratio: float) -> dict[str, float]:
        """Returns the weights of the baseline's lengths that interpolate it, in the logarithm of the length."""
        lengths = sorted(self.study.lengths)
        if not lengths:
            return {self.study.baseline: 1.0}
        ratio = min(max(ratio, lengths[0]), lengths[-1])
        upper = next(place for place, length in enumerate(lengths) if ratio <= length)
        if ratio == lengths[upper]:
            return {self.study.lengths[ratio]: 1.0}
        low, high = lengths[upper - 1], lengths[upper]
        share = math.log(ratio / low) / math.log(high / low)
        return {self.study.lengths[low]: 1 - share, self.study.lengths[high]: share}


def read_costs(folder: Path, study: Study, batch_size: int) -> dict[str, float]:
    """Returns the measured time of a step of each arm as a multiple of the baseline's.

    ``costs.json`` is written by ``rankclip_jax.benchmark objectives --json``; without it there are no costs.

    Args:
      folder: the study's folder.
      study: the study.
      batch_size: that of its runs.

    Raises:
      UserError: the file is damaged.
    """
    path = folder / COSTS
    if not path.exists():
        return {}
    costs = {}
    for row in read_json(path, list):
        value = number(row.get("time_against_baseline")) if isinstance(row, dict) else None
        if value is None or not isinstance(row.get("arm"), str):
            raise UserError(
                f"{path}: expected rows with an arm and time_against_baseline; found {row}. Measure again "
                "on an idle machine."
            )
        if row["arm"] in study.arms and row.get("global_batch_size") == batch_size:
            costs[row["arm"]] = value
    return costs
