"""Reads untrusted files safely, and writes files atomically."""

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
_MAX_DEPTH = 100  # levels of nested JSON values; Python's recursion limit is near a thousand
_LARGEST_NUMBER = 1e100  # larger than any number of a run, and small enough to add, plot and format


def open_regular(path: Path) -> BinaryIO:
    """Opens a regular file to read its bytes.

    Raises:
      OSError: the file cannot be opened, or is a pipe, device or socket, from which a read might never return.
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
    """Whether a path from a file is that of a file; False for invalid paths too."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # the name is too long or contains NUL
        return False


def read_text(path: Path, *, limit: int = LARGEST_TEXT) -> str:
    """Returns the content of a UTF-8 text file, without a byte-order mark.

    Raises:
      OSError: see `open_regular`.
      UserError: the file is not UTF-8, or longer than ``limit`` bytes.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UserError(f"{printable(path)}: expected at most {limit:,} bytes of text; found more.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{printable(path)}: expected UTF-8 text; found another encoding at byte {error.start:,}. Convert it: "
            "iconv -f LATIN1 -t UTF-8 FILE > NEW"
        ) from error


def read_json(path: Path, expected: type = dict, *, limit: int = LARGEST_TEXT) -> Any:
    """Returns the value in a JSON file.

    Args:
      path: the file.
      expected: the expected type of the value.
      limit: the maximum size of the file in bytes.

    Raises:
      OSError: see `open_regular`.
      UserError: the file is not UTF-8, too long, not JSON, nested too deeply, or has a value of another type.
    """
    try:
        value = json.loads(read_text(path, limit=limit))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{printable(path)}: expected JSON; found {printable(error)}.") from error
    if not isinstance(value, expected):
        raise UserError(f"{printable(path)}: expected a JSON {expected.__name__}; found {type(value).__name__}.")
    if is_deep(value):
        raise UserError(f"{printable(path)}: expected JSON of at most {_MAX_DEPTH} nested levels; found more.")
    return value


def is_deep(value: Any) -> bool:
    """Whether the lists and objects of a JSON value are nested too deeply for recursive functions."""
    level = [value]
    for _ in range(_MAX_DEPTH):
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
    r"""Returns untrusted text, such as a file's name, on one line: escapes control characters, and truncates it.

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
    """Raises OSError if nothing can be created at the path or in its nearest existing parent; leaves nothing there."""
    if object_stores.is_remote(path):
        object_stores.check_writable(path)
        return
    existing = nearest_folder(path)
    tempfile.TemporaryFile(dir=existing).close()
    nearest = next((folder for folder in (path, *path.absolute().parents) if folder.exists()), existing)
    if not nearest.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(nearest))


def nearest_folder(path: Path) -> Path:
    """Returns the folder at the path, or its nearest existing parent."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file atomically, text as UTF-8: to a temporary file, then renamed. Object stores are atomic anyway.

    Raises:
      OSError: the file cannot be written; the error has its name.
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
    """Returns a JSON value as a finite number of bounded size, or None if it is not one."""
    if not isinstance(value, int | float) or abs(value) > _LARGEST_NUMBER or math.isnan(value):
        return None
    return value
