"""Files that are added to while a run goes on, on disks that may be full for a while, and in object stores."""

import logging
import threading
import time
from pathlib import Path

from rankclip_jax.input_pipeline import object_stores
from rankclip_jax.input_pipeline.object_stores import is_remote

_LOGGER = logging.getLogger(__name__)
_PAUSE = 30  # seconds between two times that an object, which cannot be added to, is written anew


class AppendOnlyFile:
    """What cannot be written is kept, and written with what comes next.

    Args:
      path: of the file; what it holds stays.
      makes_folder: the file's folder is made anew where somebody removes it, but not those above.
    """

    def __init__(self, path: Path, *, makes_folder: bool = False) -> None:
        self.path, self._makes_folder = path, makes_folder
        self._left, self._failed, self._writing = b"", False, threading.RLock()
        self._whole: bytes | None = None
        self._last = -float("inf")

    def add(self, content: bytes) -> None:
        """Adds to the file, or to what is to be added to an object in a moment."""
        with self._writing:
            self._left += content
            if not is_remote(self.path) or time.monotonic() - self._last > _PAUSE:
                self.flush()

    def flush(self) -> None:
        """Writes what is left to be."""
        with self._writing:
            try:
                self._write_left()
            except OSError as error:
                if not self._failed:
                    _LOGGER.warning("note: %s cannot be written (%s); later it is tried again", self.path, error)
                self._failed = True

    def _write_left(self) -> None:
        if not self._left:
            return
        if self._whole is None:  # the first time, when nobody else writes it any more
            whole = self.path.read_bytes() if self.path.exists() else b""
            if self.path.suffix == ".jsonl" and whole and not whole.endswith(b"\n"):
                self._left = b"\n" + self._left  # its last line was cut in half
            self._whole = whole if is_remote(self.path) else b""  # which alone is written anew
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
