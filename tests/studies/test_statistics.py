"""Paired intervals: against the normal theory, and their coverage."""

import math

import numpy as np
import pytest

from rankclip_jax.studies import statistics
from rankclip_jax.studies.statistics import differences


def drawn(seed, seeds=3, queries=400, effect=0.05, seed_deviation=0.02):
    """An arm and a baseline that share the difficulty of their queries; the arm is better by ``effect``."""
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=queries)
    arm = [difficulty + effect + seed_deviation * rng.normal() + 0.3 * rng.normal(size=queries) for _ in range(seeds)]
    return arm, [difficulty + 0.3 * rng.normal(size=queries) for _ in range(seeds)]


def test_with_one_seed_the_interval_is_that_of_normal_theory():
    arm, other = drawn(0, seeds=1)
    found = differences({"a": (arm, other)})["a"]
    values = arm[0] - other[0]
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05 * half)


def test_the_interval_has_the_variance_of_seeds_and_of_queries():
    arm, other = drawn(1, seeds=5, seed_deviation=0.2)
    found = differences({"a": (arm, other)})["a"]
    per_query = np.stack(arm) - np.stack(other)
    by_seed, by_query = per_query.mean(axis=1), per_query.mean(axis=0)
    half = 1.96 * math.sqrt(by_seed.var(ddof=1) / 5 + by_query.var() / 400)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.15)


def test_more_comparisons_widen_the_interval():
    one, many = (differences({"a": drawn(2, seeds=1)}, count)["a"] for count in (1, 20))
    assert many.low < one.low < one.mean == many.mean < one.high < many.high
    # By the normal distribution's quantiles at 2.5 % and at 0.125 %.
    assert (many.high - many.low) / (one.high - one.low) == pytest.approx(3.023 / 1.960, rel=0.1)


def test_equal_arms_have_no_difference():
    arm, _ = drawn(3)
    found = differences({"a": (arm, arm)})["a"]
    assert (found.mean, found.low, found.high) == (0, 0, 0)
    assert not found.is_clear


def test_pairs_are_independent_of_each_other():
    pairs = {name: drawn(number) for number, name in enumerate("ab")}
    assert differences(pairs)["a"].mean == differences({"a": pairs["a"]})["a"].mean
    assert differences({}) == {}


def test_the_interval_covers_the_true_difference_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(statistics, "_DRAWS", 1000)
    covered = [
        found.low < 0.05 < found.high for seed in range(150) for found in differences({"a": drawn(seed)}).values()
    ]
    assert np.mean(covered) > 0.92  # the pigeonhole bootstrap errs on the wide side
