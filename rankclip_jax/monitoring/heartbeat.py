"""The heartbeat of a run for outside monitors: ``heartbeat.json`` in the workdir, written with the goodput ledger."""

import contextlib
import json
import logging
import os
import socket
import threading
import time
from pathlib import Path

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import number, read_json, write_atomically
from rankclip_jax.monitoring.goodput import Ledger
from rankclip_jax.monitoring.timeline import Timeline

NAME = "heartbeat.json"
_LOGGER = logging.getLogger(__name__)


class Heartbeat(contextlib.ExitStack):
    """Writes the run's step and current activity at an interval, in a thread.

    Args:
      workdir: the run's folder, which must exist.
      timeline: the run's current activity.
      ledger: written with each heartbeat.
      seconds: the interval.
      total_steps: the length of the run.
    """

    def __init__(
        self, workdir: Path, timeline: Timeline, ledger: Ledger, seconds: float = 10, total_steps: int | None = None
    ) -> None:
        super().__init__()
        self._total_steps = total_steps
        self._path, self._timeline, self._ledger, self._seconds = workdir / NAME, timeline, ledger, seconds
        self._over, self._failed = threading.Event(), False

    def __enter__(self) -> "Heartbeat":
        """Starts the heartbeats; the last one is written on exit."""
        thread = threading.Thread(target=self._beat_on, daemon=True)
        thread.start()
        self.callback(
            thread.join, timeout=self._seconds
        )  # with a timeout, in case the folder is not reachable any more
        self.callback(self._over.set)
        return self

    def _beat_on(self) -> None:
        self._beat()
        while not self._over.wait(self._seconds):
            self._beat()
        self._beat(ended=True)

    def _beat(self, ended: bool = False) -> None:
        doing = self._timeline.doing
        line = {
            "time": time.time(),
            "host": socket.gethostname(),
            "process": os.getpid(),
            "step": self._timeline.step,
            "total_steps": self._total_steps,
            "ended": ended,
            "doing": doing.words if doing else "",
            "seconds": round(time.monotonic() - doing.since, 1) if doing else 0.0,
        }
        try:
            write_atomically(self._path, json.dumps(line) + "\n")
            self._ledger.write()
        except OSError as error:  # a failed heartbeat is no reason to stop
            if not self._failed:
                _LOGGER.warning("note: %s cannot be written (%s)", self._path, error)
            self._failed = True


def last(workdir: Path) -> dict | None:
    """Returns the last heartbeat of a run; None: missing or unreadable."""
    try:
        beat = read_json(workdir / NAME)
    except (OSError, UserError):
        return None
    numbers = [number(beat.get(name)) for name in ("time", "process", "step", "seconds")]
    words = [beat.get(name) for name in ("host", "doing")]
    return beat if None not in numbers and all(isinstance(word, str) for word in words) else None
