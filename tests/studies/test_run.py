"""Studies as they are run: every run once, resumed after kills, with the same tables."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from rankclip_jax.studies import definition, page, results, scheduler, tables, worker
from tests.commands import ROOT, environment, run
from tests.studies import small_study

RECIPE = ROOT / "tests" / "studies" / "small_study.py"
RUNS = ["clip/tune1", "clip/seed1", "long/seed1", "student/tune1", "student/seed1"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of the small study, its runs done in this process."""
    folder, config = tmp_path_factory.mktemp("study"), small_study.get_config()
    study = small_study.get_study()
    progress = scheduler.Progress(study, config, folder)
    while ready := progress.ready_runs():
        assert worker.execute(study, config, RECIPE, folder, ready[0], keep_checkpoints=False) == 0
        progress.read()
    return folder


def progress_in(folder):
    return scheduler.Progress(definition.read(RECIPE), small_study.get_config(), folder)


def test_every_run_is_done_once_and_its_result_is_a_line(finished):
    found = results.read(finished / results.NAME)
    assert sorted(found) == sorted(RUNS)
    assert not any(result.failed for result in found.values())
    assert len((finished / results.NAME).read_text().splitlines()) == len(RUNS)
    # Those that tune are measured on validation data alone.
    assert "unseen/retrieval/mean_recall_1" in found["clip/seed1"].metrics
    assert not any(name.startswith(("unseen", "order")) for name in found["clip/tune1"].metrics)
    assert [step for step, _ in found["clip/seed1"].history["logit_scale"]] == [1, 2, 3, 4]
    assert not list(finished.glob("runs/*/*/checkpoints"))


def test_the_page_has_every_section_and_figure(finished):
    progress = progress_in(finished)
    assert not progress.ready_runs()
    costs = {"clip": 1.0, "student": 1.5}
    written = page.write(progress, costs, finished).read_text()
    for heading in ("Summary", "Equal examples", "Equal time", "Variants", "Figures", "During training", "Modality gap",
                    "Where each word is seen", "Similarities", "How each arm was tuned", "Runs"):  # fmt: skip
        assert f">{heading}</h2>" in written
    for figure in ("Length: R@1, x 100", "Learned scale", "Cosine of exact and released ranking gradients"):
        assert f"<figcaption>{figure}</figcaption><svg" in written
    assert "http" not in written.replace("http://www.w3.org", "")
    assert "NDCG" in page.text(progress, costs)


def test_without_a_teachers_weights_the_student_trains_the_teacher_first(finished, tmp_path):
    """As on another machine, to which only the results were copied."""
    shutil.copy(finished / results.NAME, tmp_path / results.NAME)
    lines = (tmp_path / results.NAME).read_text().splitlines(keepends=True)
    (tmp_path / results.NAME).write_text("".join(line for line in lines if '"student/seed1"' not in line))
    study, config = small_study.get_study(), small_study.get_config()
    progress = scheduler.Progress(study, config, tmp_path)
    assert [each.name for each in progress.ready_runs()] == ["student/seed1"]
    assert worker.execute(study, config, RECIPE, tmp_path, progress.ready_runs()[0], keep_checkpoints=True) == 0
    assert table_of(tmp_path) == table_of(finished)
    assert (tmp_path / "runs/student/seed1/checkpoints").is_dir()


def table_of(folder):
    return tables.Tables(progress_in(folder), {}).equal_examples(["clip", "student", "long"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_five_times_and_moved_it_ends_with_the_same_tables(tmp_path):
    command = [sys.executable, "-m", "rankclip_jax.study", "--config", str(RECIPE), "--jobs", "2", "--workdir"]
    run("study", "--config", RECIPE, "--workdir", tmp_path / "whole")
    folder, draws = tmp_path / "killed", random.Random(0)
    for kill in range(5):  # each in the run after so many finished ones
        process = subprocess.Popen([*command, folder], cwd=ROOT, env=environment(), start_new_session=True)
        while len(results.read(folder / results.NAME)) < min(kill, 3):
            assert process.poll() is None
            time.sleep(0.2)
        time.sleep(draws.uniform(0, 8))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        if kill == 2:  # another machine has the results alone
            (tmp_path / "moved").mkdir()
            shutil.copy(folder / results.NAME, tmp_path / "moved")
            folder = tmp_path / "moved"
    said = subprocess.run([*command, folder], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    assert "5 of 5 runs" in said.stdout
    assert table_of(folder) == table_of(tmp_path / "whole")
    assert sorted(results.read(folder / results.NAME)) == sorted(RUNS)
