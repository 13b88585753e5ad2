"""How commands end when something is wrong: with one paragraph and an exit status, never with a traceback."""

import argparse
import copy
import io
import logging
import os
import signal
import sys
from types import TracebackType
from typing import NoReturn

from .errors import UserError
from .files import printable

_LONGEST = 10_000  # characters of a paragraph or of a line of the log


class ExitOnUserError:
    """A context in which a `UserError`, a refusal of the file system, lack of memory or Ctrl-C ends the process.

    The exit status is 2, and for Ctrl-C 130.

    Args:
      program: its name, with which the paragraph begins.
      kept: what is said of the work that a Ctrl-C leaves unfinished.
    """

    def __init__(self, program: str, kept: str) -> None:
        self.program, self._kept = program, kept

    def __enter__(self) -> None:
        """Nothing is different until something goes wrong; a name that is not UTF-8 is printed with escapes."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends the process if something did."""
        match error:
            case UserError():
                self.exit(str(error))
            case KeyboardInterrupt():
                self.stop()
            case MemoryError():
                self.exit(f"memory does not suffice ({error}). Ask for less at once, or take a machine with more.")
            case RuntimeError() if "RESOURCE_EXHAUSTED" in str(error):  # the word of accelerators' runtimes
                words = str(error).splitlines()[0][:200]
                self.exit(f"memory does not suffice ({words}). Ask for less at once, such as a smaller batch or model.")
            case OSError() if error.filename is not None:
                self.exit(
                    f"{error.filename}: {error.strerror}. Expected a path that this user can read, or write where "
                    "something is written there."
                )
            case OSError() if error.errno is not None:
                self.exit(f"the system refused: {error.strerror}.")
            case Exception() if type(error).__module__.partition(".")[0] in ("gcsfs", "google", "aiohttp"):
                words = " ".join(str(error).split())[:300]
                self.exit(f"the object store refused ({type(error).__name__}: {words}). Are there credentials for it?")
            case OSError():  # without a number: of such a library, too
                self.exit(f"refused: {error}.")

    def stop(self) -> NoReturn:
        """Ends the process at once, as Ctrl-C asks: threads and helpers of libraries would still hold it otherwise."""
        # A handler may come in the middle of a print, so this writes past Python's buffers.
        os.write(2, f"\n{self.program}: stopped at once. {self._kept}\n".encode())
        os._exit(128 + signal.SIGINT)

    def exit(self, message: str) -> NoReturn:
        """Ends the process with a paragraph."""
        print(printable(f"{self.program}: {' '.join(message.split())}", _LONGEST), file=sys.stderr)
        sys.exit(2)


class PrintableFormatter(logging.Formatter):
    """Log messages whose inserted words, such as a file's name, stay on their line, without control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """The message; its own line ends, and those of a traceback, stay."""
        record = copy.copy(record)
        if isinstance(record.args, tuple):
            record.args = tuple(
                arg if isinstance(arg, int | float) else printable(arg, _LONGEST) for arg in record.args
            )
        return "\n".join(printable(line, _LONGEST) for line in super().format(record).split("\n"))


def log_to_stderr() -> None:
    """Prints warnings, one paragraph each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


class Parser(argparse.ArgumentParser):
    """A command line that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(f"{message}. For all flags say: {self.prog} --help")
