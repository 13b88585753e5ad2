"""The goodput ledger of a run: its wall time by cause, one line per attempt in ``goodput.jsonl`` of its workdir.

The current line is rewritten every few seconds, so that it is up to date if the attempt is killed. Steps that the next
attempt repeats, because it resumes from an earlier checkpoint, count as lost.
"""

import json
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rankclip_jax.input_pipeline import files
from rankclip_jax.input_pipeline.files import write_atomically
from rankclip_jax.monitoring import json_lines
from rankclip_jax.monitoring.timeline import Timeline

NAME = "goodput.jsonl"
CAUSES = {
    "step": "steps that count",
    "input": "waiting for batches",
    "checkpoint": "saving checkpoints",
    "evaluation": "evaluation",
    "start": "starting",
    "compile": "compiling",
    "recovery": "restoring checkpoints",
    "other": "other",
    "lost": "repeated steps",
    "down": "between attempts",
}


class Ledger:
    """Writes the ledger lines of this process's attempts.

    Args:
      workdir: the run's folder, which must exist.
      timeline: the time spent on each cause.
      started: the start of this process's first attempt, by `time.monotonic`.
    """

    def __init__(self, workdir: Path, timeline: Timeline, started: float) -> None:
        self._path, self._timeline = workdir / NAME, timeline
        self._start(started)
        self._before = [json.dumps(line) for line in json_lines.read_objects(self._path)]
        self._counted: dict[str, float] = defaultdict(float)
        self._line: dict[str, Any] = {}
        self._writing = threading.RLock()

    def begin(self, step: int) -> None:
        """Starts a new attempt from a step, and ends this process's previous attempt, if any."""
        with self._writing:
            if self._line:
                self.write()
                self._before.append(json.dumps(self._line))
                self._start(time.monotonic())
                self._counted = self._timeline.seconds()
            self._line = {"host": socket.gethostname(), "started": self._began, "from_step": step}
            self._timeline.step = step
            self.write()

    def _start(self, started: float) -> None:
        """Sets the start of an attempt; reads the wall clock only once, since it may be adjusted later."""
        self._started, self._began = started, time.time() - (time.monotonic() - started)

    def write(self) -> None:
        """Writes the current line."""
        with self._writing:
            took, ever = time.monotonic() - self._started, self._timeline.seconds()
            seconds = {cause: round(ever[cause] - self._counted[cause], 3) for cause in CAUSES}
            seconds["other"] += round(max(took - sum(seconds.values()), 0.0), 3)
            self._line |= {"ended": self._began + took, "step": self._timeline.step, "seconds": seconds}
            write_atomically(self._path, "\n".join([*self._before, json.dumps(self._line)]) + "\n")


def seconds_of(workdir: Path) -> dict[str, float]:
    """Returns the seconds of a run's wall time by `CAUSES` over all its attempts; empty without a ledger."""
    lines = _lines(workdir / NAME)
    attempts = [_of_attempt(lines, number) for number in range(len(lines))]
    sums = {cause: sum(attempt.get(cause, 0.0) for attempt in attempts) for cause in CAUSES}
    return {cause: seconds for cause, seconds in sums.items() if seconds > 0}


def attempts_of(workdir: Path) -> int:
    """Returns the number of a run's attempts."""
    return len(_lines(workdir / NAME))


def share_of_steps(seconds: dict[str, float]) -> float:
    """Returns the goodput: the fraction of the time spent on steps whose results were kept."""
    return seconds.get("step", 0.0) / max(sum(seconds.values()), 1e-9)


def _of_attempt(attempts: Sequence[dict[str, Any]], number: int) -> dict[str, float]:
    line, later = attempts[number], attempts[number + 1 :]
    seconds = dict.fromkeys(CAUSES, 0.0) | line["seconds"]
    if later:
        seconds["down"] = max(later[0]["started"] - line["ended"], 0.0)
    made = line["step"] - line["from_step"]
    kept = max(min([line["step"], *(other["from_step"] for other in later)]) - line["from_step"], 0)
    if made > kept:
        for cause in ("step", "input"):
            lost = seconds[cause] * (made - kept) / made
            seconds[cause] -= lost
            seconds["lost"] += lost
    return seconds


def _lines(path: Path) -> list[dict[str, Any]]:
    """Returns the valid attempts in a file."""
    attempts = []
    for attempt in json_lines.read_objects(path):
        numbers = {name: files.number(attempt.get(name)) for name in ("started", "ended", "from_step", "step")}
        by_cause = attempt.get("seconds")
        seconds = (
            {name: files.number(value) for name, value in by_cause.items()}
            if isinstance(by_cause, dict)
            else {"": None}
        )
        if None not in numbers.values() and None not in seconds.values():
            attempts.append(numbers | {"seconds": seconds})
    return attempts
