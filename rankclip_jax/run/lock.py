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
from pathlib import Path
from typing import Any

import fsspec

from input_pipeline import object_stores
from input_pipeline.errors import UserError
from rankclip_jax.telemetry.console import say

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
            self._held = path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))
        self.callback(path.unlink, missing_ok=True)
        file.truncate(0)
        file.write(json.dumps(_myself()) + "\n")
        file.flush()

    def _take_in_store(self) -> None:
        path, me = self._workdir / NAME, _myself()
        store, name = fsspec.core.url_to_fs(str(path))
        while not self._held:
            with contextlib.suppress(FileExistsError):
                store.pipe_file(name, json.dumps(me).encode(), mode="create")
                self._held = True
                break
            before = _content(path)
            say(f"note: {_owner(path)}; looking for {_SILENT} seconds whether it still does")
            end = time.monotonic() + _SILENT
            while _content(path) == before:
                if time.monotonic() > end:
                    path.unlink()
                    break
                time.sleep(1)
            else:
                if path.exists():
                    raise UserError(self._in_use(path))
        over = threading.Event()
        renewing = threading.Thread(target=_renew, args=(path, me, over), daemon=True)
        renewing.start()
        self.callback(path.unlink)
        self.callback(renewing.join)
        self.callback(over.set)

    def _in_use(self, path: Path) -> str:
        return (
            f"--workdir: {self._workdir} is in use: {_owner(path)}. Wait for it or stop it there, or name another "
            "--workdir."
        )


def _myself() -> dict[str, Any]:
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"host": socket.gethostname(), "process": os.getpid(), "started": started}


def _renew(path: Path, me: dict[str, Any], over: threading.Event) -> None:
    for beat in itertools.count(1):
        if over.wait(_SILENT / 4):
            return
        with contextlib.suppress(OSError):
            object_stores.write(path, json.dumps(me | {"beat": beat}).encode())


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_text(encoding="utf8"))
        return f"process {owner['process']} on {owner['host']} trains in it since {owner['started']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process trains in it"
