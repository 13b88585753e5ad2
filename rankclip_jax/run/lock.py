"""One training at a time in a workdir: a lock of the operating system, which a process that dies does not keep."""

import contextlib
import fcntl
import json
import os
import socket
import time
from pathlib import Path

from input_pipeline.errors import UserError

NAME = "lock"


class Lock(contextlib.ExitStack):
    """Until it is closed no other training uses the folder; one process of a run takes it.

    The file says who holds it, and is gone with the lock; one that a killed process left behind locks nothing. On file
    systems without locks nobody is kept out.

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
        path = self._workdir / NAME
        while not self._held:
            file = self.enter_context(path.open("a+", encoding="utf8"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"--workdir: {self._workdir} is in use: {_owner(path)}. Wait for it or stop it there, or name "
                    "another --workdir."
                ) from error
            except OSError:  # the file system has no locks
                pass
            # Unless the one before has just let go of it, and removed it, before this took it.
            self._held = path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))
        self.callback(path.unlink, missing_ok=True)
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        file.truncate(0)
        file.write(json.dumps({"host": socket.gethostname(), "process": os.getpid(), "started": started}) + "\n")
        file.flush()


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_text(encoding="utf8"))
        return f"process {owner['process']} on {owner['host']} trains in it since {owner['started']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process trains in it"
