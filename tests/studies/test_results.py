"""The file of results: whole lines or none, whoever writes and whenever it dies."""

import json
import multiprocessing

import numpy as np
import pytest

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.studies import results
from rankclip_jax.studies.results import Result


def made(run="clip/seed1", **changes):
    arrays = {"hits": np.asarray([1.0, 0.0, 1.0]), "snapshot/heat0": np.ones((2, 8, 8))}
    return Result(
        run, "digest", "data", {"a.b": 1}, {"R": 0.5, "undefined": None}, {"loss": [(1, 2.0)]}, arrays, **changes
    )


def test_a_result_reads_back(tmp_path):
    results.append(tmp_path / "r.jsonl", made(captions=["a star"], seconds=2.5, failed="x", provenance={"jax": "1"}))
    (found,) = results.read(tmp_path / "r.jsonl").values()
    np.testing.assert_array_equal(found.arrays["hits"], [1, 0, 1])
    assert (found.run, found.captions, found.seconds, found.failed) == ("clip/seed1", ["a star"], 2.5, "x")
    assert found.metrics == {"R": 0.5, "undefined": None}


def test_of_two_results_of_a_run_the_later_counts(tmp_path):
    for seconds in (1.0, 2.0):
        results.append(tmp_path / "r.jsonl", made(seconds=seconds))
    assert results.read(tmp_path / "r.jsonl")["clip/seed1"].seconds == 2.0


def test_a_line_that_was_cut_off_costs_no_other(tmp_path):
    path = tmp_path / "r.jsonl"
    results.append(path, made("a"))
    path.write_bytes(path.read_bytes()[:-20])
    results.append(path, made("b"))
    assert list(results.read(path)) == ["b"]


def test_a_damaged_result_is_reported_by_its_run(tmp_path):
    path = tmp_path / "r.jsonl"
    results.append(path, made())
    path.write_text(json.dumps(json.loads(path.read_text()) | {"arrays": "not base64"}))
    with pytest.raises(UserError, match="the line of 'clip/seed1' is damaged"):
        results.read(path)


def _append_many(path, who):
    for number in range(20):
        results.append(path, made(f"{who}/{number}"))


def test_several_processes_append_at_a_time(tmp_path):
    path = tmp_path / "r.jsonl"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append_many, args=(path, who)) for who in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert len(results.read(path)) == 40


def test_means_and_samples_of_several_metrics():
    result = Result("a", "", "", {}, {"x": 0.25, "y": 0.75, "z": None},
                    arrays={"x": np.asarray([0.0, 0.5]), "y": np.asarray([1.0, 0.5]), "long": np.zeros(3)})  # fmt: skip
    assert result.mean(["x", "y"]) == 0.5
    assert result.mean(["x", "z"]) is None
    assert result.mean(["absent"]) is None
    np.testing.assert_array_equal(result.samples(["x", "y"]), [0.5, 0.5])
    assert result.samples(["x", "absent"]) is None
    assert result.samples(["x", "long"]).mean() == pytest.approx((0.25 + 0.0) / 2)  # each counts half
    assert len(result.samples(["x", "long"])) == 5
