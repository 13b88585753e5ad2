"""The order of a soak and its account of itself, with faults and generators that take no time."""

import random
import sys
import time

import pytest

from tests import fuzz
from tests.soak import generators, soak
from tests.soak.faults import FAULTS
from tests.soak.generators import Generator
from tests.soak.harness import Broken
from tests.soak.soak import Soak, order


@pytest.fixture(autouse=True)
def nothing_is_trained(monkeypatch):
    monkeypatch.setattr(soak, "finish", lambda workdir, attempts, seconds: None)


def cheap(workdir, undisturbed, draw):
    return "cheap"


def dear(workdir, undisturbed, draw):
    return "dear"


def failing(workdir, undisturbed, draw):
    raise Broken("other parameters")


def forbidden(workdir, undisturbed, draw):
    raise PermissionError("mount")


def made(name, content, folder):
    (folder / f"{name}.py").write_text(content)


def generator(turns, name="made"):
    """Notes its turns, and keeps its promise."""

    class Noted(Generator):
        def take_turn(self, seed):
            turns.append(self.name)
            self.turns, self.inputs = self.turns + 1, self.inputs + 100
            return "kept"

    return Noted(name)


def test_each_kind_comes_once_before_any_comes_again():
    runs = order(FAULTS, random.Random(0))
    assert runs[: len(FAULTS)] == list(FAULTS)
    assert {fault: runs.count(fault) for fault in FAULTS} == FAULTS


def test_generators_begin_and_have_turns_between_faults(tmp_path, capsys):
    turns = []
    done = Soak({cheap: 2, dear: 1}, [generator(turns, "a"), generator(turns, "b")], tmp_path, 0, time.monotonic() + 60)
    done.run(random.Random(0))
    assert turns == ["a", "b", "a", "b", "a"]
    assert [
        line.split(":")[1].strip() for line in capsys.readouterr().out.splitlines() if "heap" in line or "dear" in line
    ]
    assert "2 of 2 kinds of faults, 3 of 3 runs, 2 of 2 generators, 500 inputs" in list(done.summary())[-1]


def test_nothing_is_begun_when_the_time_is_over_and_that_is_told(tmp_path):
    done = Soak({cheap: 50, dear: 8}, [Generator("made")], tmp_path, 0, end=time.monotonic() - 1)
    done.run(random.Random(0))
    assert "0 of 2 kinds of faults, 0 of 58 runs, 0 of 1 generators, 0 inputs; all kept" in list(done.summary())[-1]


def test_a_broken_promise_is_counted_and_told(tmp_path, capsys):
    done = Soak({cheap: 1, failing: 2, forbidden: 1}, [], tmp_path, 0, time.monotonic() + 60)
    done.run(random.Random(0))
    assert done.is_broken
    said, lines = capsys.readouterr().out, list(done.summary())
    assert said.count("BROKEN: failing: other parameters") == 2
    assert "kept: cheap: cheap" in said
    assert "BROKEN: forbidden: PermissionError: mount" in said
    assert "0 of 2 kept" in lines[1]
    assert lines[-1].endswith("SOME BROKEN")


def test_generators_are_those_modules_that_are_commands(tmp_path):
    made("tables", 'if __name__ == "__main__": sys.exit(fuzz.main(check))', tmp_path)
    made("helper", "x = 3", tmp_path)
    made("__init__", "def main(): pass", tmp_path)
    made("test_tables", 'if __name__ == "__main__": main()', tmp_path)
    assert [one.name for one in generators.discover(tmp_path)] == ["tables"]


@pytest.mark.parametrize("status", [0, 1])
def test_a_generator_is_a_command_whose_exit_status_counts(status, monkeypatch):
    code = f"import sys; print(sys.argv[1:]); sys.exit({status})"
    monkeypatch.setattr(generators.sys, "executable", sys.executable)
    real = generators.subprocess.run
    monkeypatch.setattr(
        generators.subprocess, "run", lambda words, **how: real([words[0], "-c", code, *words[3:]], **how)
    )
    one = Generator("made", count=7)
    told = one.take_turn(seed=3)
    assert (one.turns, one.inputs, one.broken, one.count) == (1, 7, status, 14)
    assert told.startswith("BROKEN" if status else "kept: tests.fuzz.made: 7 inputs")
    if status:
        assert "['--count', '7', '--seed', '3000']" in told


def check(draw):
    if draw.random() < 0.5:
        raise ValueError("an odd one")


def test_the_frame_of_generators_counts_and_repeats_what_broke(capsys):
    assert fuzz.main(check, ["--count", "20", "--seed", "1"]) == 1
    said = capsys.readouterr().out
    again = next(line for line in said.splitlines() if line.startswith("BROKEN: case")).partition("again by: ")[2]
    assert fuzz.main(check, again.split()[3:]) == 1
    assert "0 of 1 held" in capsys.readouterr().out
    assert fuzz.main(lambda draw: None, ["--count", "5"]) == 0
    assert "5 of 5 held" in capsys.readouterr().out
