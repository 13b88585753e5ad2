"""Error handling of commands: one paragraph and an exit status instead of a traceback."""

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

_MAX_LENGTH = 10_000  # characters of a paragraph or of a log line


class ExitOnUserError:
    """A context in which a `UserError`, an operating-system error, running out of memory or Ctrl-C ends the process.

    The exit status is 2, or 130 for Ctrl-C.

    Args:
      program: the name of the program, which starts the paragraph.
      kept: a sentence about unfinished work, printed after Ctrl-C.
    """

    def __init__(self, program: str, kept: str) -> None:
        self.program, self._kept = program, kept

    def __enter__(self) -> None:
        """Makes the output streams print names that are not UTF-8 with escapes."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Ends the process if one of these errors was raised."""
        match error:
            case UserError():
                self.exit(str(error))
            case KeyboardInterrupt():
                self.stop()
            case MemoryError():
                self.exit(f"out of memory ({error}). Use smaller batches or images, or a machine with more memory.")
            case RuntimeError() if "RESOURCE_EXHAUSTED" in str(error):  # as accelerator runtimes report it
                words = str(error).splitlines()[0][:200]
                self.exit(f"out of memory ({words}). Use a smaller batch or model.")
            case OSError() if error.filename is not None:
                self.exit(
                    f"{error.filename}: {error.strerror}. Expected a path that this user can read or write. "
                    "Use another path, or change its permissions."
                )
            case OSError() if error.errno is not None:
                self.exit(f"operating system error: {error.strerror}.")
            case Exception() if type(error).__module__.partition(".")[0] in ("gcsfs", "google", "aiohttp"):
                words = " ".join(str(error).split())[:300]
                self.exit(f"object store error ({type(error).__name__}: {words}). Check the credentials.")
            case OSError():  # without errno: also from an object-store library
                self.exit(f"input/output error: {error}.")

    def stop(self) -> NoReturn:
        """Ends the process immediately on Ctrl-C, without waiting for threads and helper processes of libraries."""
        # A signal handler may interrupt a print, so this bypasses Python's buffers.
        os.write(2, f"\n{self.program}: stopped at once. {self._kept}\n".encode())
        os._exit(128 + signal.SIGINT)

    def exit(self, message: str) -> NoReturn:
        """Prints one paragraph and exits with status 2."""
        print(printable(f"{self.program}: {' '.join(message.split())}", _MAX_LENGTH), file=sys.stderr)
        sys.exit(2)


class PrintableFormatter(logging.Formatter):
    """A log formatter that escapes control characters and line ends in arguments, such as file names."""

    def format(self, record: logging.LogRecord) -> str:
        """Formats a record; keeps the line ends of the message itself and of a traceback."""
        record = copy.copy(record)
        if isinstance(record.args, tuple):
            record.args = tuple(
                arg if isinstance(arg, int | float) else printable(arg, _MAX_LENGTH) for arg in record.args
            )
        return "\n".join(printable(line, _MAX_LENGTH) for line in super().format(record).split("\n"))


def log_to_stderr() -> None:
    """Configures logging to print warnings to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are `UserError`s of one line."""

    def error(self, message: str) -> NoReturn:
        """Raises UserError."""
        raise UserError(f"{message}. Run {self.prog} --help to list all flags.")
