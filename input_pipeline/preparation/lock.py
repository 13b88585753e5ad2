"""The lock of an output folder: one preparation at a time, released when its process dies."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from .. import files
from ..errors import UserError

NAME = ".prepare.lock"


@contextlib.contextmanager
def locked(output: Path, split: str) -> Iterator[None]:
    """Locks the output folder for one preparation; creates it, and removes it again if it stays empty.

    On file systems without locks, it has no effect.

    Raises:
      UserError: another preparation uses the folder; the message names its host and process.
    """
    path = output / NAME
    with contextlib.ExitStack() as stack:
        stack.callback(_remove_if_empty, output)
        while True:
            output.mkdir(parents=True, exist_ok=True)
            try:
                file = stack.enter_context(path.open("a+", encoding="utf8"))
            except FileNotFoundError:  # the previous owner has just removed the folder
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                stack.pop_all()
                file.close()
                raise UserError(
                    f"--output: {output} is in use: {_owner(path)}. Wait until it ends, stop it on that host, "
                    "or use another --output."
                ) from error
            except OSError:  # the file system does not support locks
                pass
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                    break  # otherwise the previous owner has just released and removed the file
        stack.callback(path.unlink, missing_ok=True)
        with contextlib.suppress(OSError):  # a full disk; the lock is held anyway
            started = time.strftime("%Y-%m-%d %H:%M:%S")
            file.truncate(0)
            file.write(
                json.dumps({"host": socket.gethostname(), "process": os.getpid(), "started": started, "split": split})
            )
            file.flush()
        yield


def _remove_if_empty(output: Path) -> None:
    with contextlib.suppress(OSError):
        output.rmdir()


def _owner(path: Path) -> str:
    try:
        owner = files.read_json(path)
        about = [files.printable(owner[name], 80) for name in ("process", "host", "split", "started")]
        return "process {} on {} has been preparing the split {!r} in it since {}".format(*about)
    except (OSError, UserError, KeyError):
        return "another process is preparing a split in it"
