"""Where the time of a run goes, over all its attempts: ``goodput.jsonl`` in its workdir, a line each.

A line is written anew every few seconds, so that an attempt that is killed has told how far it came. What steps made
and the next attempt makes again, having begun at an earlier checkpoint, is lost.
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
    "recovery": "reading checkpoints to go on from",
    "other": "other",
    "lost": "steps made again",
    "down": "between attempts",
}


class Ledger:
    """The lines of this process's attempts.

    Args:
      workdir: the run's folder, which is there.
      timeline: what takes time.
      started: when the first attempt of this process began, by the clock that nobody sets (`time.monotonic`).
    """

    def __init__(self, workdir: Path, timeline: Timeline, started: float) -> None:
        self._path, self._timeline = workdir / NAME, timeline
        self._start(started)
        self._before = [json.dumps(found) for found in json_lines.read_objects(self._path)]
        self._counted: dict[str, float] = defaultdict(float)
        self._line: dict[str, Any] = {}
        self._writing = threading.RLock()

    def begin(self, step: int) -> None:
        """A new attempt goes on from a step; the one before of this process, if any, ended here."""
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
        """An attempt began then; the time of day is asked for once, since somebody may set it meanwhile."""
        self._started, self._began = started, time.time() - (time.monotonic() - started)

    def write(self) -> None:
        """Writes how things stand."""
        with self._writing:
            took, ever = time.monotonic() - self._started, self._timeline.seconds()
            seconds = {cause: round(ever[cause] - self._counted[cause], 3) for cause in CAUSES}
            seconds["other"] += round(max(took - sum(seconds.values()), 0.0), 3)
            self._line |= {"ended": self._began + took, "step": self._timeline.step, "seconds": seconds}
            write_atomically(self._path, "\n".join([*self._before, json.dumps(self._line)]) + "\n")


def seconds_of(workdir: Path) -> dict[str, float]:
    """Seconds of a run's wall time by `CAUSES`, over all its attempts; nothing where it has told none."""
    found = _lines(workdir / NAME)
    attempts = [_of_attempt(found, number) for number in range(len(found))]
    sums = {cause: sum(attempt.get(cause, 0.0) for attempt in attempts) for cause in CAUSES}
    return {cause: seconds for cause, seconds in sums.items() if seconds > 0}


def attempts_of(workdir: Path) -> int:
    """How often a run was begun or went on."""
    return len(_lines(workdir / NAME))


def share_of_steps(seconds: dict[str, float]) -> float:
    """The goodput: the share of the time that steps took whose results were kept."""
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
    """The attempts in a file; what is no attempt is left out."""
    found = []
    for attempt in json_lines.read_objects(path):
        numbers = {name: files.number(attempt.get(name)) for name in ("started", "ended", "from_step", "step")}
        told = attempt.get("seconds")
        seconds = {name: files.number(value) for name, value in told.items()} if isinstance(told, dict) else {"": None}
        if None not in numbers.values() and None not in seconds.values():
            found.append(numbers | {"seconds": seconds})
    return found
