"""One training at a time in a workdir: a lock that a process which dies does not keep.

On a disk it is the operating system's. In an object store it is an object that its owner writes anew every few seconds,
and that is taken from an owner who has stopped doing so.
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
_SILENT = 40  # seconds after which the owner of a lock in an object store is taken for dead


class Lock(contextlib.ExitStack):
    """Until it is closed no other training uses the folder; one process of a run takes it.

    The file says who holds it, and is gone with the lock; what a killed process left behind keeps nobody out for long.
    On file systems without locks nobody is kept out.

    Args:
      workdir: the run's folder.
    """

    def __init__(self, workdir: Path) -> None:
        super().__init__()
        self._workdir, self._held = workdir, False
        self._file: TextIOWrapper | None = None  # on a disk, once it is held

    def take(self) -> None:
        """Takes it, unless it is held already; the folder is there.

        Raises:
          UserError: another training uses the folder; its host and process are named.
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
            except OSError:  # the file system has no locks
                pass
            # Unless the one before has just let go of it, and removed it, before this took it.
            self._held = _is_at(path, file)
        self._file = file
        self.callback(_remove_at, path, file)
        file.truncate(0)
        file.write(json.dumps(_myself()) + "\n")
        file.flush()

    def is_held(self) -> bool:
        """Whether it was taken, and its file is still where it was; of one in a store, which renews itself, it is."""
        return self._held and (self._file is None or _is_at(self._workdir / NAME, self._file))

    def retake(self) -> bool:
        """Takes it anew where its file was removed or replaced meanwhile; whether that was so. The folder is there.

        Raises:
          UserError: as `take`.
        """
        if self.is_held():
            return False
        self.close()
        self._held, self._file = False, None
        self.take()
        return True

    def _take_in_store(self) -> None:
        path, me = self._workdir / NAME, _myself()
        if not object_stores.create(path, json.dumps(me).encode()):
            self._take_from_the_dead(path, me)
        self._held = True
        over = threading.Event()
        renewing = threading.Thread(target=_renew, args=(path, me, over), daemon=True)
        renewing.start()
        self.callback(_remove_own, path, me)
        self.callback(renewing.join, timeout=5)
        self.callback(over.set)

    def _take_from_the_dead(self, path: Path, me: dict[str, Any]) -> None:
        before, end = path.read_bytes() if path.exists() else b"", time.monotonic() + _SILENT
        say(f"note: {_owner(path)}; looking for {_SILENT} seconds whether it still does")
        while before and time.monotonic() < end:
            time.sleep(1)
            found = _content(path)
            if found is None:  # the store did not answer
                end = time.monotonic() + _SILENT
            elif found and found != before:
                raise UserError(self._in_use(path))
            else:
                before = found  # nothing: its owner has let go of it
        with contextlib.suppress(OSError):
            path.unlink()
        object_stores.create(path, json.dumps(me).encode())
        time.sleep(2)  # another may have come to the same conclusion, and have removed this one
        if not _is_own(_content(path), me):
            raise UserError(self._in_use(path))

    def _in_use(self, path: Path) -> str:
        return (
            f"--workdir: {self._workdir} is in use: {_owner(path)}. Wait for it or stop it there, or name another "
            "--workdir."
        )


def _is_at(path: Path, file: TextIOWrapper) -> bool:
    """Whether an open file is the one at the path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except OSError:
        return False


def _remove_at(path: Path, file: TextIOWrapper) -> None:
    if _is_at(path, file):
        path.unlink(missing_ok=True)


def _myself() -> dict[str, Any]:
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"host": socket.gethostname(), "process": os.getpid(), "started": started}


def _renew(path: Path, me: dict[str, Any], over: threading.Event) -> None:
    for beat in itertools.count(1):
        if over.wait(_SILENT / 4):
            return
        found = _content(path)
        if found and not _is_own(found, me):  # this process stood still, or was cut off, for long
            os.write(2, f"rankclip_jax: another training has taken {path.parent} over; this one stops.\n".encode())
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
    """Of the object; empty where there is none, None where the store does not say."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except Exception:  # of the store's library
        return None


def _owner(path: Path) -> str:
    try:
        owner = files.read_json(path)
        process, host, started = (printable(owner[name], 80) for name in ("process", "host", "started"))
        return f"process {process} on {host} trains in it since {started}"
    except (OSError, UserError, KeyError):
        return "another process trains in it"
