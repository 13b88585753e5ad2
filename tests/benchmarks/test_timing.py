"""Turns, load and what is concluded from them; nothing here depends on how long anything takes."""

import itertools
import os
import signal
import subprocess
import sys
import time

import pytest

from rankclip_jax.benchmarks import timing
from rankclip_jax.benchmarks.timing import (
    ProcessorTime,
    Spread,
    Timings,
    columns,
    conclusion,
    format_spread,
    take_turns,
)


def processors(shares):
    """A clock of two processors, of which others take such a share between each pair of readings, then none."""
    readings, now = itertools.chain.from_iterable((0.0, share) for share in shares), ProcessorTime(0.0, 0.0, 0.0)

    def read():
        nonlocal now
        others = 2 * next(readings, 0.0)
        now = ProcessorTime(now.total + 2, now.busy + others + 0.1, now.own + 0.1)
        return now

    return read


def never_ending(share):
    return processors(itertools.repeat(share))


def version(seconds):
    """Takes so long in each turn, by its own account."""
    turns = iter(seconds)
    return lambda count: next(turns)


WARM = [9.0, 9.0]  # a first time, and one from which the length of a turn follows


def test_quiet_turns_give_the_least_the_median_and_the_most():
    versions = {"ours": version([*WARM, 1, 2, 3, 4, 5]), "theirs": version([*WARM, 2, 4, 6, 10, 9])}
    timings = take_turns(versions, read=never_ending(0.0))
    assert timings.spread("ours", 1e3) == Spread(1000, 3000, 5000)
    assert timings.ratio("theirs", to="ours") == Spread(9 / 5, 2, 10 / 4)
    assert timings.load_columns() == {"turns": 5, "turns_discarded": 0, "load_of_others": 0, "busy": False}
    assert conclusion(timings) is None


def test_turns_beside_other_work_are_taken_again():
    slow = [12, 23]  # beside other work
    versions = {"ours": version([*WARM, *slow, 1, 1, 1, 1, 1])}
    timings = take_turns(versions, read=processors([0.4, 0.3]))
    assert timings.seconds["ours"] == [1, 1, 1, 1, 1]
    assert timings.discarded == 2
    assert conclusion(timings) is None


def test_a_busy_machine_gives_no_ratio_and_is_said():
    versions = {name: version([*WARM, *range(1, 11)]) for name in ("ours", "theirs")}
    timings = take_turns(versions, read=never_ending(0.37))
    assert timings.ratio("theirs", to="ours") is None
    assert timings.load_columns() == {
        "turns": 10, "turns_discarded": 0, "load_of_others": pytest.approx(0.37), "busy": True,
    }  # fmt: skip
    assert "The machine was busy: other processes used 37% of its CPU time; no conclusion" in conclusion(timings)
    assert format_spread(timings.ratio("theirs", to="ours")) == "-"
    assert columns("ratio", timings.ratio("theirs", to="ours")) == {"ratio": None, "ratio_range": None}
    assert columns("seconds", timings.spread("ours")) == {"seconds": 5.5, "seconds_range": [1, 10]}
    assert format_spread(timings.spread("ours")) == "5.5 (1.0 to 10.0)"


def test_a_version_that_alone_met_other_work_spoils_its_turn():
    versions = {"ours": version([*WARM, *range(10)]), "theirs": version([*WARM, *range(10)])}
    timings = take_turns(versions, read=processors([0.0, 0.5]))
    assert timings.discarded == 1
    assert list(timings.seconds["ours"]) == [1, 2, 3, 4, 5]


def test_where_the_system_does_not_tell_its_load_that_is_said():
    timings = take_turns({"ours": version([*WARM, *range(5)])}, read=lambda: None)
    assert not timings.is_busy
    assert timings.load_columns()["load_of_others"] is None
    assert "the load of other processes is not available" in conclusion(timings)


def test_the_busiest_of_several_tables_is_named():
    quiet, busy = Timings({}, [0.0, 0.01]), Timings({}, [0.0, 0.5])
    assert "25% of its CPU time" in conclusion(quiet, busy)


SPIN = "while True: pass"


def until(moment):
    """Waits for what comes sooner or later, however busy the machine is."""
    while not moment():
        time.sleep(0.05)


@pytest.mark.skipif(timing.read_processor_time() is None, reason="the system does not tell its load")
def test_work_of_children_is_ones_own():
    before = timing.read_processor_time()
    with subprocess.Popen([sys.executable, "-c", SPIN]) as child:
        until(lambda: timing.read_processor_time().own - before.own > 0.1)
        child.kill()
    assert timing.read_processor_time().own - before.own > 0.1  # kept when it has ended


@pytest.mark.skipif(timing.read_processor_time() is None, reason="the system does not tell its load")
def test_work_of_a_stranger_is_load():
    """A stranger is a process whose parent has ended."""
    start = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SPIN!r}], stdout=-3).pid)"
    stranger = int(subprocess.run([sys.executable, "-c", start], stdout=-1, check=True, text=True).stdout)
    try:
        until(lambda: timing._ticks_of_descendants(stranger) > 20)
        taken, before = timing._ticks_of_descendants(stranger), timing.read_processor_time()
        until(lambda: timing._ticks_of_descendants(stranger) - taken > 40)
        after = timing.read_processor_time()
    finally:
        os.kill(stranger, signal.SIGKILL)
    assert (after.busy - before.busy) - (after.own - before.own) > 0.3
    assert before.share_of_others(after) > 0
