"""A run's folder that is removed, renamed or replaced while it trains: it is made anew, or the run stops."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from rankclip_jax.checkpoints.lock import Lock
from rankclip_jax.checkpoints.workdir import saved_steps
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.monitoring import events
from rankclip_jax.training import attempt
from tests.commands import ROOT, environment
from tests.training.conftest import assert_bit_identical, final_state, read_metrics, train_small

AT = 12  # between the saves of steps 10 and 15


def train_disturbed(workdir, disturb):
    """Trains 20 steps; something happens to the folder after one of them."""
    real = attempt.LoggingHook.after_step

    def log(self, info):
        real(self, info)
        if info.step == AT:
            disturb(workdir)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempt.LoggingHook, "after_step", log)
        return train_small(workdir, evaluation__every_steps=10, objective__name="rankclip")


def remove(*names):
    return lambda workdir: [(shutil.rmtree if (workdir / x).is_dir() else os.unlink)(workdir / x) for x in names]


DISTURBANCES = {
    "workdir renamed": lambda workdir: workdir.rename(workdir.with_name("elsewhere")),
    "its parent removed": lambda workdir: shutil.rmtree(workdir.parent),
    "checkpoints removed": remove("checkpoints"),
    "all but checkpoints removed": remove("config.json", "lock", "metrics.jsonl", "tensorboard", "evaluation"),
    "a copy in its place": lambda workdir: [
        workdir.rename(workdir.with_name("elsewhere")),
        shutil.copytree(workdir.with_name("elsewhere"), workdir),
    ],
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("disturb", DISTURBANCES.values(), ids=DISTURBANCES)
def test_what_belongs_in_the_folder_comes_back_and_the_run_ends_as_if_nothing_had_been(disturb, undisturbed, tmp_path):
    workdir = tmp_path / "runs" / "run"
    assert train_disturbed(workdir, disturb).finished
    assert_bit_identical(final_state(workdir), final_state(undisturbed))
    assert saved_steps(workdir)[-2:] == [15, 20]
    found = {path.name for path in workdir.iterdir()}
    assert found >= {"config.json", "checkpoints", "metrics.jsonl", "goodput.jsonl", "evaluation", "tensorboard"}
    assert (workdir / "config.json").read_text() == (undisturbed / "config.json").read_text()
    assert [line["step"] for line in read_metrics(workdir) if "loss" in line][-8:] == list(range(AT + 1, 21))
    assert list((workdir / "tensorboard").iterdir())
    assert (workdir / "evaluation" / "20.json").exists()


def another_run(workdir):
    workdir.rename(workdir.with_name("elsewhere"))
    train_small(workdir, seed=1, train__steps=10)


def another_run_of_the_same_settings(workdir):
    workdir.rename(workdir.with_name("elsewhere"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "AT", 0)
        train_small(workdir, evaluation__every_steps=10, objective__name="rankclip")


@pytest.mark.parametrize("disturb", [another_run, another_run_of_the_same_settings])
def test_another_runs_folder_in_its_place_is_not_written_into(disturb, tmp_path):
    there = {}

    def replace(workdir):
        disturb(workdir)
        there.update(contents(workdir))

    with pytest.raises(UserError, match="was replaced by another run's folder while this one trained in it"):
        train_disturbed(tmp_path / "run", replace)
    after = contents(tmp_path / "run")
    assert {name: content for name, content in after.items() if "checkpoints" in name or name == "config.json"} == {
        name: content for name, content in there.items() if "checkpoints" in name or name == "config.json"
    }
    assert saved_steps(tmp_path / "elsewhere") == [5, 10]


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_training_that_was_let_in_by_a_removed_lock_keeps_its_own(tmp_path):
    with Lock(tmp_path) as first, Lock(tmp_path) as second:
        first.take()
        (tmp_path / "lock").unlink()
        assert not first.is_held()
        second.take()
        with pytest.raises(UserError, match="is in use"):
            first.retake()
        first.close()
        assert second.is_held()  # whoever ends removes no other's lock
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_folder_of_a_process_is_renamed_and_the_process_goes_on(tmp_path):
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "tests.soak.tiny", "train", "--config", "tests/soak/recipe.py"]
    with subprocess.Popen(
        [*command, "--workdir", str(workdir)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=environment() | {"SOAK_RECORDS": str(tmp_path / "records")},
    ) as process:  # fmt: skip
        said = []
        for line in process.stdout:
            said.append(line)
            if "step 14/40" in line:
                workdir.rename(tmp_path / "elsewhere")
    assert process.returncode == 0, "".join(said)
    assert "were removed or renamed during training. The folder was created again" in "".join(said)
    assert "Traceback" not in "".join(said)
    assert json.loads((workdir / "config.json").read_text()) == json.loads(
        (tmp_path / "elsewhere" / "config.json").read_text()
    )
    assert saved_steps(workdir)[-1] == 40
    assert not (workdir / "lock").exists()
    assert "workdir_restored" in [event["event"] for event in events.read(workdir)]
