"""The event log of a run: one line per event in ``events.jsonl``, and messages on the console."""

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from rankclip_jax.cli.console import say
from rankclip_jax.distributed.processes import is_primary_process
from rankclip_jax.input_pipeline.files import printable
from rankclip_jax.monitoring import json_lines
from rankclip_jax.monitoring.append_only_file import AppendOnlyFile


class Events:
    """Appends events to the log of a run, which covers all its attempts.

    Args:
      workdir: the run's folder, which must exist.
    """

    def __init__(self, workdir: Path) -> None:
        self._file = AppendOnlyFile(workdir / "events.jsonl")
        self._counts: dict[str, int] = {}

    def write(self, event: str, **about: Any) -> None:
        """Appends an event with time, host and process, on the primary process."""
        self._counts[event] = self.count(event) + 1
        if is_primary_process():
            line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "host": socket.gethostname(), "process": os.getpid()}
            self._file.add((json.dumps(line | {"event": event} | about) + "\n").encode())
            self._file.flush()

    @property
    def path(self) -> Path:
        """The path of the log."""
        return self._file.path

    def count(self, event: str) -> int:
        """Returns how often this process wrote an event."""
        return self._counts.get(event, 0)

    def say(self, line: str) -> None:
        """Prints a line on the primary process."""
        if is_primary_process():
            say(printable(line, 10_000))


def read(workdir: Path) -> list[dict[str, Any]]:
    """Returns the events of a run in order, without incomplete lines."""
    return [event for event in json_lines.read_objects(workdir / "events.jsonl") if isinstance(event.get("event"), str)]
