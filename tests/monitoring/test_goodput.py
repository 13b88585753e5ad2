"""The ledger of a run's time, against sums made by hand."""

import json

import pytest

from rankclip_jax.monitoring import goodput, heartbeat
from rankclip_jax.monitoring.goodput import Ledger
from rankclip_jax.monitoring.heartbeat import Heartbeat
from rankclip_jax.monitoring.timeline import Timeline


def attempt(started, ended, from_step, until, **seconds):
    return {"host": "a", "started": started, "ended": ended, "from_step": from_step, "step": until, "seconds": seconds}


def write(workdir, *lines):
    (workdir / goodput.NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_work_that_is_made_again_is_lost_and_pauses_are_counted(tmp_path):
    """Killed at step 30 after the checkpoint of 20, again at 50 after 40, then from 40 to the end at 60."""
    write(
        tmp_path,
        attempt(1000.0, 1100.0, 0, 30, start=10.0, compile=30.0, step=54.0, input=6.0),
        attempt(1150.0, 1200.0, 20, 50, start=20.0, step=30.0),
        attempt(1200.0, 1270.0, 40, 60, recovery=10.0, step=40.0, evaluation=20.0),
    )
    seconds = goodput.seconds_of(tmp_path)
    assert seconds == pytest.approx({
        "step": 54 * 20 / 30 + 30 * 20 / 30 + 40, "input": 4, "lost": 18 + 2 + 10, "down": 50, "start": 30,
        "compile": 30, "recovery": 10, "evaluation": 20,
    })  # fmt: skip
    assert sum(seconds.values()) == pytest.approx(270)  # of wall time
    assert goodput.share_of_steps(seconds) == pytest.approx(96 / 270)
    assert goodput.attempts_of(tmp_path) == 3


def test_an_attempt_of_which_nothing_remains_is_all_lost(tmp_path):
    write(tmp_path, attempt(0.0, 10.0, 0, 5, step=10.0), attempt(10.0, 15.0, 0, 5, step=5.0))
    assert goodput.seconds_of(tmp_path) == {"lost": 10.0, "step": 5.0}


@pytest.mark.parametrize("line", ["{", "3", "[]", '{"started": 1}', '{"started": "x", "ended": 1, "seconds": {}}'])
def test_lines_that_are_none_are_left_out(line, tmp_path):
    (tmp_path / goodput.NAME).write_text(f"{line}\n{json.dumps(attempt(0.0, 1.0, 0, 1, step=1.0))}\n")
    assert goodput.seconds_of(tmp_path) == {"step": 1.0}


def test_all_time_is_accounted_for_over_attempts_of_one_process(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    monkeypatch.setattr("time.monotonic", lambda: now[0] - 90)
    timeline = Timeline()
    timeline.add("start", 4.0)
    ledger = Ledger(tmp_path, timeline, started=6.0)
    ledger.begin(0)
    monkeypatch.setattr("time.time", lambda: now[0] - 3600)  # somebody sets the clock back
    for step in (1, 2):
        with timeline.span("step", "a step"):
            now[0] += 3
        timeline.step = step
        now[0] += 0.5  # of nothing in particular
    with timeline.span("recovery", "the way back"):
        now[0] += 2
    monkeypatch.setattr("time.time", lambda: now[0])
    ledger.begin(1)
    monkeypatch.setattr("time.time", lambda: now[0] + 3600)
    with timeline.span("step", "a step"):
        now[0] += 5
        timeline.step = 2
        ledger.write()  # by another thread, while the step is under way
    assert goodput.seconds_of(tmp_path) == {
        "step": 3.0 + 5.0, "lost": 3.0, "start": 4.0, "recovery": 2.0, "other": 1.0,
    }  # fmt: skip
    monkeypatch.setattr("time.time", lambda: now[0])
    again = Ledger(tmp_path, Timeline(), started=now[0] - 90)
    again.begin(2)
    assert goodput.attempts_of(tmp_path) == 3


def test_the_heart_beats_at_the_beginning_and_the_end_and_says_what_goes_on(tmp_path):
    timeline = Timeline()
    timeline.step = 7
    ledger = Ledger(tmp_path, timeline, started=0.0)
    with timeline.span("evaluation", "the evaluation after step 7"):
        with Heartbeat(tmp_path, timeline, ledger, seconds=100, total_steps=9):
            while not heartbeat.last(tmp_path):
                pass
            assert heartbeat.last(tmp_path)["doing"] == "the evaluation after step 7"
            assert not heartbeat.last(tmp_path)["ended"]
            timeline.step = 8
        assert heartbeat.last(tmp_path)["step"] == 8
        assert (heartbeat.last(tmp_path)["ended"], heartbeat.last(tmp_path)["total_steps"]) == (True, 9)


def test_a_heart_that_cannot_write_stops_nothing(tmp_path, caplog):
    with Heartbeat(tmp_path / "gone", Timeline(), Ledger(tmp_path, Timeline(), 0.0), seconds=0.01):
        pass
    assert len([record for record in caplog.records if "cannot be written" in record.message]) == 1
    assert heartbeat.last(tmp_path / "gone") is None
