"""A sign of life for those who watch from outside: ``heartbeat.json`` in the workdir, and the ledger of time."""

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
    """Tells every so many seconds, in a thread of its own, at which step the run is, and what it does since when.

    Args:
      workdir: the run's folder, which is there.
      timeline: what the run does.
      ledger: written each time.
      seconds: between two beats.
      total_steps: of the run.
    """

    def __init__(
        self, workdir: Path, timeline: Timeline, ledger: Ledger, seconds: float = 10, total_steps: int | None = None
    ) -> None:
        super().__init__()
        self._total_steps = total_steps
        self._path, self._timeline, self._ledger, self._seconds = workdir / NAME, timeline, ledger, seconds
        self._over, self._failed = threading.Event(), False

    def __enter__(self) -> "Heartbeat":
        """Beats from here on, and a last time at the end."""
        thread = threading.Thread(target=self._beat_on, daemon=True)
        thread.start()
        self.callback(thread.join, timeout=self._seconds)  # unless the folder cannot be reached any more
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
        except OSError as error:  # what cannot be told is no reason to stop
            if not self._failed:
                _LOGGER.warning("note: %s cannot be written (%s)", self._path, error)
            self._failed = True


def last(workdir: Path) -> dict | None:
    """The last sign of life of a run; None: there is none that can be read."""
    try:
        found = read_json(workdir / NAME)
    except (OSError, UserError):
        return None
    numbers = [number(found.get(name)) for name in ("time", "process", "step", "seconds")]
    words = [found.get(name) for name in ("host", "doing")]
    return found if None not in numbers and all(isinstance(word, str) for word in words) else None
