"""Reading files that anybody may have written, and writing files that are there either whole or not at all."""

import errno
import json
import math
import os
import stat
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, cast

from . import object_stores
from .errors import UserError

LARGEST_TEXT = 1 << 26  # bytes of a settings, manifest or label file
_DEEPEST = 100  # levels of nested JSON values; Python's own functions give up near a thousand
_LARGEST_NUMBER = 1e100  # beyond every number of a run, and within what can be added, drawn and formatted


def open_regular(path: Path) -> BinaryIO:
    """Opens a file to read its bytes.

    Raises:
      OSError: it cannot be opened, or it is a pipe, a device or a socket, whose reader could wait or read for ever.
    """
    if object_stores.is_remote(path):
        return cast(BinaryIO, path.open("rb"))
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(code, "Is a directory" if stat.S_ISDIR(mode) else "Not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def is_file(path: Path) -> bool:
    """Whether a path that a file names is a file's; False also where no file can be called so."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long; NUL
        return False


def read_text(path: Path, *, limit: int = LARGEST_TEXT) -> str:
    """The content of a text file in UTF-8, with or without a byte-order mark.

    Raises:
      OSError: see `open_regular`.
      UserError: it is not UTF-8, or longer than ``limit`` bytes.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UserError(f"{printable(path)}: expected at most {limit:,} bytes of text.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{printable(path)}: expected UTF-8 text; byte {error.start:,} is not. Convert it, for example with: "
            "iconv -f LATIN1 -t UTF-8 FILE > NEW"
        ) from error


def read_json(path: Path, expected: type = dict, *, limit: int = LARGEST_TEXT) -> Any:
    """The value that a JSON file holds.

    Args:
      path: the file.
      expected: type of the value.
      limit: bytes that the file may have.

    Raises:
      OSError: see `open_regular`.
      UserError: it is not UTF-8, too long, not JSON, nested too deeply, or another type of value.
    """
    try:
        value = json.loads(read_text(path, limit=limit))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{printable(path)}: expected JSON; found {printable(error)}.") from error
    if not isinstance(value, expected):
        raise UserError(f"{printable(path)}: expected a JSON {expected.__name__}; found {type(value).__name__}.")
    if is_deep(value):
        raise UserError(f"{printable(path)}: expected JSON of at most {_DEEPEST} nested levels; found more.")
    return value


def is_deep(value: Any) -> bool:
    """Whether lists and objects of a JSON value are nested deeper than recursive functions should follow."""
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True


def printable(text: object, limit: int = 300) -> str:
    r"""Text from outside, such as a file's name, on one line: control characters escaped, and cut to ``limit``.

    >>> print(printable("a\x1b[2Jb\nc"))
    a\x1b[2Jb\nc
    """
    words = str(text)
    shown = words if len(words) <= limit else f"{words[: limit - 1]}…"
    if shown.isprintable():
        return shown
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in shown
    )


def check_writable(path: Path) -> None:
    """Raises OSError where nothing can be made at the path, or in the folder nearest to it; nothing is left there."""
    if object_stores.is_remote(path):
        object_stores.check_writable(path)
        return
    existing = nearest_folder(path)
    tempfile.TemporaryFile(dir=existing).close()
    blocked = next((folder for folder in (path, *path.absolute().parents) if folder.exists()), existing)
    if not blocked.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(blocked))


def nearest_folder(path: Path) -> Path:
    """The folder at the path, or the nearest one above it that is there."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file beside its place and moves it there; text as UTF-8. An object is there whole or not at all anyway.

    Raises:
      OSError: it cannot be; the file is named.
    """
    content = content.encode("utf8") if isinstance(content, str) else content
    if object_stores.is_remote(path):
        object_stores.write(path, content)
        return
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def number(value: object) -> float | None:
    """A JSON value as a finite number that can be computed with; None: it is none."""
    if not isinstance(value, int | float) or abs(value) > _LARGEST_NUMBER or math.isnan(value):
        return None
    return value
