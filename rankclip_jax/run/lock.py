"""One training at a time in a workdir: a lock of the operating system, which a process that dies does not keep."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from input_pipeline.errors import UserError

NAME = "lock"


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """A context in which no other training uses the folder, which is there; for one process of a run.

    The file stays, and says who held it last; on file systems without locks it is all that there is.

    Raises:
      UserError: another training uses it; its host and process are named.
    """
    with (workdir / NAME).open("a+", encoding="utf8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"--workdir: {workdir} is in use: {_owner(workdir / NAME)}. {_MEND}") from error
        except OSError:  # no locks there
            pass
        file.seek(0)
        file.truncate()
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(json.dumps({"host": socket.gethostname(), "process": os.getpid(), "started": started}) + "\n")
        file.flush()
        yield


_MEND = "Wait for it or stop it there, or name another --workdir."


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_text(encoding="utf8"))
        return f"process {owner['process']} on {owner['host']} trains in it since {owner['started']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process trains in it"
