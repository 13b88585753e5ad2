"""Tables: what is compared with what, at equal examples and at equal time."""

import json

import numpy as np
import pytest

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.studies import page, results, scheduler, tables
from rankclip_jax.studies.definition import Arm, Study
from rankclip_jax.studies.plan import digest
from rankclip_jax.studies.results import Result
from rankclip_jax.studies.scheduler import Progress
from rankclip_jax.studies.tables import Tables
from tests.studies.small_study import get_config

LEVELS = {"clip": 0.4, "better": 0.6, "same": 0.4, "short": 0.3, "long": 0.6, "variant": 0.5}


def made():
    arms = {name: Arm({"objective.name": "clip", "data.flip": flip}) for flip, name in
            enumerate(("clip", "better", "same"))}  # fmt: skip
    arms |= {
        "short": Arm({"train.steps": 2}, like="clip"),
        "long": Arm({"train.steps": 8}, like="clip"),
        "variant": Arm({"train.steps": 9}, like="better", against="long"),
    }
    return Study("S", "clip", arms, [[{"optimizer.learning_rate": 1e-3}]], ("score",), {"R": ("R",)}, seeds=2,
                 lengths={0.5: "short", 1.0: "clip", 2.0: "long"})  # fmt: skip


def finished(folder, failed=()):
    """Results of every run, each with its arm's level."""
    study, config, rng = made(), get_config(), np.random.default_rng(0)
    progress = Progress(study, config, folder)
    while runs := progress.ready_runs():
        for run in runs:
            samples = np.float16(LEVELS[run.arm] + 0.01 * rng.normal(size=100))
            metrics = {"score": 0.5, "R": float(samples.astype(float).mean())}
            why = "diverged" if run.name in failed else ""
            result = Result(run.name, digest(run, config), "data", run.settings, {} if why else metrics,
                            arrays={} if why else {"R": samples}, failed=why, seconds=1.0)  # fmt: skip
            results.append(folder / results.NAME, result)
        progress.read()
    return progress


def test_tuned_arms_are_compared_with_the_baseline_and_variants_with_the_arm_they_name(tmp_path):
    found = Tables(finished(tmp_path), {})
    main = found.equal_examples(found.study.tuned)
    assert main["clip"]["R"].difference is None
    assert main["better"]["R"].difference.mean == pytest.approx(0.2, abs=0.01)
    assert main["better"]["R"].difference.is_clear
    assert not main["same"]["R"].difference.is_clear
    assert main["same"]["R"].difference.seeds == 2
    assert found.equal_examples(["variant"])["variant"]["R"].difference.mean == pytest.approx(-0.1, abs=0.01)


@pytest.mark.parametrize(
    ("cost", "reference"), [(1.0, 0.4), (2.0, 0.6), (0.5, 0.3), (2**0.5, 0.5), (2**-0.5, 0.35), (9.0, 0.6), (0.1, 0.3)]
)
def test_at_equal_time_the_baseline_is_longer_where_an_arm_is_slower(tmp_path, cost, reference):
    found = Tables(finished(tmp_path), {"better": cost}).equal_time(["better", "same"])
    assert list(found) == ["better"]  # the other's cost is not known
    assert found["better"]["R"].difference.mean == pytest.approx(0.6 - reference, abs=0.01)


def test_a_failed_run_is_left_out_and_a_failed_trial_is_not_chosen(tmp_path):
    progress = finished(tmp_path, failed=["better/seed1"])
    found = Tables(progress, {})
    assert found.equal_examples(["better"])["better"]["R"].difference.seeds == 1
    assert "better/seed1" in progress.results
    assert "diverged" in page.write(progress, {}, tmp_path).read_text()


def test_text_and_summary_mark_what_is_clear(tmp_path):
    progress = finished(tmp_path)
    rows = [line.split() for line in page.text(progress, {}).splitlines()]
    assert [rows[number][1][-1] for number in (1, 2, 3)] == ["0", "+", "0"] or rows[2][1].endswith("+")
    written = page.write(progress, {}, tmp_path).read_text()
    assert "better: better (+" in written
    assert "no clear difference: same" in written


def test_results_of_other_settings_do_not_count_and_of_other_data_are_refused(tmp_path):
    finished(tmp_path)
    config = get_config()
    config.optimizer.weight_decay = 0.3
    assert not Progress(made(), config, tmp_path).results
    path = tmp_path / results.NAME
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[1:], json.dumps(json.loads(lines[0]) | {"data": "other"})]))
    with pytest.raises(UserError, match="expected results from the same data; found 2 different ones"):
        Progress(made(), get_config(), tmp_path)


def test_progress_says_how_much_is_left(tmp_path):
    progress = finished(tmp_path)
    assert progress.line(2) == "15 of 15 runs"
    path = tmp_path / results.NAME
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:5]))
    progress.read()
    assert progress.line(2) == f"{len(progress.results)} of 15 runs, about 5 s left"


def test_costs_are_those_of_the_studys_batch_size(tmp_path):
    rows = [{"arm": arm, "global_batch_size": size, "time_against_baseline": value}
            for arm, size, value in (("better", 16, 1.5), ("better", 32, 2.5), ("unknown", 16, 1.0))]  # fmt: skip
    (tmp_path / tables.COSTS).write_text(json.dumps(rows))
    assert tables.read_costs(tmp_path, made(), 16) == {"better": 1.5}
    (tmp_path / tables.COSTS).write_text(json.dumps([rows[0] | {"time_against_baseline": None}]))
    with pytest.raises(UserError, match=r"costs.json: .* Measure again on an idle machine"):
        tables.read_costs(tmp_path, made(), 16)


def test_jobs_share_the_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,5")
    shares = [scheduler._environment(slot, 2)["CUDA_VISIBLE_DEVICES"] for slot in (0, 1)]
    assert shares == ["2,5", "3"]
    assert [scheduler._environment(slot, 4)["CUDA_VISIBLE_DEVICES"] for slot in range(4)] == ["2", "3", "5", "2"]
