"""The lock of a workdir: one training at a time, released when its process dies.

On a disk it is a file lock of the operating system. In an object store it is an object that its owner renews every few
seconds; another process takes it over when the owner stops renewing it.
"""

import contextlib
import fcntl
import itertools
import json
import os
import socket
import threading
import time
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from rankclip_jax.cli.console import say
from rankclip_jax.input_pipeline import files, object_stores
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import printable

NAME = "lock"
_SILENT = 40  # seconds without renewal after which the owner of a lock in an object store counts as dead


class Lock(contextlib.ExitStack):
    """Keeps other trainings out of a workdir until it is closed; one process of a run takes it.

    The lock file names its owner, and is removed with the lock. A file left by a killed process does not block others
    for long. On file systems without locks, it has no effect.

    Args:
      workdir: the run's folder.
    """

    def __init__(self, workdir: Path) -> None:
        super().__init__()
        self._workdir, self._held = workdir, False
        self._file: TextIOWrapper | None = None  # set for a lock on a disk, while it is held

    def take(self) -> None:
        """Takes the lock, unless it is held already; the folder must exist.

        Raises:
          UserError: another training uses the folder; the message names its host and process.
        """
        if self._held:
            return
        if object_stores.is_remote(self._workdir):
            self._take_in_store()
            return
        path = self._workdir / NAME
        while not self._held:
            file = self.enter_context(path.open("a+", encoding="utf8"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(self._in_use(path)) from error
            except OSError:  # the file system does not support locks
                pass
            # False if the previous owner released and removed the file just before this process locked it.
            self._held = _is_at(path, file)
        self._file = file
        self.callback(_remove_at, path, file)
        file.truncate(0)
        file.write(json.dumps(_own_record()) + "\n")
        file.flush()

    def is_held(self) -> bool:
        """Whether the lock is held, and its file still exists; in an object store, renewal checks the latter."""
        return self._held and (self._file is None or _is_at(self._workdir / NAME, self._file))

    def retake(self) -> bool:
        """Takes the lock again if its file was removed or replaced; returns whether it was. The folder must exist.

        Raises:
          UserError: as in `take`.
        """
        if self.is_held():
            return False
        self.close()
        self._held, self._file = False, None
        self.take()
        return True

    def _take_in_store(self) -> None:
        path, me = self._workdir / NAME, _own_record()
        if not object_stores.create(path, json.dumps(me).encode()):
            self._take_over(path, me)
        self._held = True
        over = threading.Event()
        renewing = threading.Thread(target=_renew, args=(path, me, over), daemon=True)
        renewing.start()
        self.callback(_remove_own, path, me)
        self.callback(renewing.join, timeout=5)
        self.callback(over.set)

    def _take_over(self, path: Path, me: dict[str, Any]) -> None:
        last_seen, end = path.read_bytes() if path.exists() else b"", time.monotonic() + _SILENT
        say(f"note: {_owner(path)}; waiting {_SILENT} seconds to see whether it is still alive")
        while last_seen and time.monotonic() < end:
            time.sleep(1)
            content = _content(path)
            if content is None:  # the store did not answer
                end = time.monotonic() + _SILENT
            elif content and content != last_seen:
                raise UserError(self._in_use(path))
            else:
                last_seen = content  # empty: its owner has released it
        with contextlib.suppress(OSError):
            path.unlink()
        object_stores.create(path, json.dumps(me).encode())
        time.sleep(2)  # another process may take the lock over at the same time, and remove this one's object
        if not _is_own(_content(path), me):
            raise UserError(self._in_use(path))

    def _in_use(self, path: Path) -> str:
        return (
            f"--workdir: {self._workdir} is in use: {_owner(path)}. Wait for it, stop it there, or use another "
            "--workdir."
        )


def _is_at(path: Path, file: TextIOWrapper) -> bool:
    """Whether an open file is still the file at the path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except OSError:
        return False


def _remove_at(path: Path, file: TextIOWrapper) -> None:
    if _is_at(path, file):
        path.unlink(missing_ok=True)


def _own_record() -> dict[str, Any]:
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"host": socket.gethostname(), "process": os.getpid(), "started": started}


def _renew(path: Path, me: dict[str, Any], over: threading.Event) -> None:
    for beat in itertools.count(1):
        if over.wait(_SILENT / 4):
            return
        content = _content(path)
        if content and not _is_own(content, me):  # this process was suspended or disconnected for too long
            os.write(2, f"rankclip_jax: another training has taken over {path.parent}; this one stops.\n".encode())
            os._exit(2)
        with contextlib.suppress(OSError):
            object_stores.write(path, json.dumps(me | {"beat": beat}).encode())


def _remove_own(path: Path, me: dict[str, Any]) -> None:
    if _is_own(_content(path), me):
        with contextlib.suppress(OSError):
            path.unlink()


def _is_own(content: bytes | None, me: dict[str, Any]) -> bool:
    try:
        return me.items() <= json.loads(content or b"").items()
    except (ValueError, AttributeError, TypeError, RecursionError):
        return False


def _content(path: Path) -> bytes | None:
    """Returns the content of the lock object: empty if it does not exist, None if the store does not answer."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except Exception:  # the store's library may raise anything
        return None


def _owner(path: Path) -> str:
    try:
        owner = files.read_json(path)
        process, host, started = (printable(owner[name], 80) for name in ("process", "host", "started"))
        return f"process {process} on {host} has been training in it since {started}"
    except (OSError, UserError, KeyError):
        return "another process is training in it"
