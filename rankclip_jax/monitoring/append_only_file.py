"""Append-only files for logs, which tolerate disks that are temporarily full, and object stores."""

import logging
import threading
import time
from pathlib import Path

from rankclip_jax.input_pipeline import object_stores
from rankclip_jax.input_pipeline.object_stores import is_remote

_LOGGER = logging.getLogger(__name__)
_PAUSE = 30  # seconds between writes of an object, which object stores cannot append to and must rewrite


class AppendOnlyFile:
    """Appends to a file; content that cannot be written is buffered and written with the next.

    Args:
      path: the file; its existing content stays.
      makes_folder: whether to create the file's folder again if it is removed, but not its parents.
    """

    def __init__(self, path: Path, *, makes_folder: bool = False) -> None:
        self.path, self._makes_folder = path, makes_folder
        self._left, self._failed, self._writing = b"", False, threading.RLock()
        self._whole: bytes | None = None
        self._last = -float("inf")

    def add(self, content: bytes) -> None:
        """Appends to the file, or to the buffer of an object, which is written at intervals."""
        with self._writing:
            self._left += content
            if not is_remote(self.path) or time.monotonic() - self._last > _PAUSE:
                self.flush()

    def flush(self) -> None:
        """Writes the buffered content."""
        with self._writing:
            try:
                self._write_left()
            except OSError as error:
                if not self._failed:
                    _LOGGER.warning("note: %s cannot be written (%s); retrying later", self.path, error)
                self._failed = True

    def _write_left(self) -> None:
        if not self._left:
            return
        if self._whole is None:  # the first write, when no other process writes the file any more
            whole = self.path.read_bytes() if self.path.exists() else b""
            if self.path.suffix == ".jsonl" and whole and not whole.endswith(b"\n"):
                self._left = b"\n" + self._left  # its last line is incomplete
            self._whole = whole if is_remote(self.path) else b""  # only objects are rewritten
        if is_remote(self.path):
            self._last = time.monotonic()
            object_stores.write(self.path, self._whole + self._left)
            self._whole, self._left, self._failed = self._whole + self._left, b"", False
            return
        if self._makes_folder:
            self.path.parent.mkdir(exist_ok=True)
        with self.path.open("ab", buffering=0) as file:
            while self._left:
                self._left = self._left[file.write(self._left) :]
        self._failed = False
