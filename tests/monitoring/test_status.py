"""What `rankclip_jax.status` says of a run."""

import json
import re
import time

import pytest

from rankclip_jax import recipes
from rankclip_jax.checkpoints import workdir
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.monitoring import status
from rankclip_jax.monitoring.events import Events
from rankclip_jax.settings import validation
from tests.monitoring.test_goodput import attempt, write


def make(folder, **optimizer):
    config = recipes.base()
    config.train.steps = 10
    config.optimizer.update(optimizer)
    validation.check_values(config)
    workdir.write_config(folder, config)
    return folder


def test_a_run_is_described_from_its_files(tmp_path):
    make(tmp_path)
    write(tmp_path, attempt(0.0, 100.0, 0, 30, step=75.0, compile=25.0))
    (tmp_path / "heartbeat.json").write_text(json.dumps({
        "time": 0.0, "host": "node7", "process": 12, "step": 30, "doing": "saving after step 30", "seconds": 4.0
    }))  # fmt: skip
    for _ in range(2):
        Events(tmp_path).write("loss_spike", step=3)
    lines = list(status.lines(tmp_path))
    assert lines[1] == "checkpoints: none yet"
    assert lines[2].endswith("at step 30, in saving after step 30 for 4 s; process 12 on node7")
    assert lines[3] == "goodput: 75.0% of 1 min 40 s, over 1 attempt(s)"
    assert [line.split() for line in lines[4:6]] == [
        ["steps", "that", "count", "1", "min", "15", "s", "75.0%"], ["compiling", "25", "s", "25.0%"]
    ]  # fmt: skip
    assert lines[6:] == ["event: loss_spike, 2 time(s)"]


def test_a_run_that_has_told_nothing_yet_is_one_too(tmp_path):
    assert "last heartbeat: never" in list(status.lines(make(tmp_path)))


STATES = {
    "finished": ([10], {"step": 10, "ended": True}, "finished, 10 steps"),
    "running": ([5], {"step": 7, "ended": False}, "running, at step 7 of 10"),
    "killed": ([5], {"step": 7, "ended": False, "time": 0.0}, "unfinished: silent for .* at step 7 of 10, killed or"),
    "stopped": ([7], {"step": 7, "ended": True}, "unfinished: stopped .* ago at step 7 of 10; step 7 is saved"),
    "never begun": ([], None, "unfinished, step 0 of 10 is saved"),
    "diverged": ([5], {"step": 8, "ended": True, "bad": 8}, "diverged at step 8 of 10; step 5 is saved"),
    "recovered": ([5], {"step": 9, "ended": True, "bad": 8}, "unfinished: stopped .* at step 9 of 10"),
    "epochs": ([5], {"step": 5, "ended": True, "total_steps": 30, "steps": 0}, "stopped .* at step 5 of 30"),
    "epochs, all of them": ([30], {"step": 30, "ended": True, "total_steps": 30, "steps": 0}, "finished, 30 steps"),
}  # fmt: skip


@pytest.mark.parametrize("name", STATES)
def test_a_run_that_is_not_finished_says_how_it_stands(name, tmp_path):
    saved, beat, words = STATES[name]
    make(tmp_path)
    for step in saved:
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    config = workdir.read_config(tmp_path)
    if beat:
        config["train"]["steps"] = beat.get("steps", 10)
        if "bad" in beat:
            Events(tmp_path).write("not_finite", step=beat["bad"])
        always = {"time": time.time(), "host": "node7", "process": 12, "doing": "", "seconds": 0.0}
        (tmp_path / "heartbeat.json").write_text(json.dumps(always | beat))
    state = status.state_of(tmp_path, config)
    assert re.search(words, state.words)
    assert state.finished == name.startswith(("finished", "epochs, all"))


def test_settings_that_differ_are_told(tmp_path):
    one, other = make(tmp_path / "one"), make(tmp_path / "other", learning_rate=1e-3, name="lion")
    told = list(status.describe_differences(one, other))
    assert told[0] == f"settings: 2 differ from {other}"
    assert set(told[1:]) == {
        f"  config.optimizer.learning_rate: 0.0005 in {one}, 0.001 in {other}",
        f"  config.optimizer.name: 'adamw' in {one}, 'lion' in {other}",
    }
    assert list(status.describe_differences(one, one)) == [f"settings: none differ from {one}"]
    with pytest.raises(UserError, match="no run at"):
        list(status.describe_differences(one, tmp_path))
