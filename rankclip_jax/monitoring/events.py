"""What happened to a run beside its steps: a line each in ``events.jsonl``, and a word on the console."""

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
    """Of all attempts of a run: what was written before stays.

    Args:
      workdir: the run's folder, which is there.
    """

    def __init__(self, workdir: Path) -> None:
        self._file = AppendOnlyFile(workdir / "events.jsonl")
        self._counts: dict[str, int] = {}

    def write(self, event: str, **about: Any) -> None:
        """Adds a line, by one process: when, where, what."""
        self._counts[event] = self.count(event) + 1
        if is_primary_process():
            line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "host": socket.gethostname(), "process": os.getpid()}
            self._file.add((json.dumps(line | {"event": event} | about) + "\n").encode())
            self._file.flush()

    @property
    def path(self) -> Path:
        """Of the file."""
        return self._file.path

    def count(self, event: str) -> int:
        """How often it was written by this process."""
        return self._counts.get(event, 0)

    def say(self, line: str) -> None:
        """A line on the console, of one process."""
        if is_primary_process():
            say(printable(line, 10_000))


def read(workdir: Path) -> list[dict[str, Any]]:
    """What happened to a run, in order; a line that was cut in half is left out."""
    return [found for found in json_lines.read_objects(workdir / "events.jsonl") if isinstance(found.get("event"), str)]
