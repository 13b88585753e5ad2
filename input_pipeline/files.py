"""Files that are there either whole or not at all."""

import errno
import os
import tempfile
from pathlib import Path


def check_writable(path: Path) -> None:
    """Raises OSError where nothing can be made at the path, or in the folder nearest to it; nothing is left there."""
    existing = nearest_folder(path)
    tempfile.TemporaryFile(dir=existing).close()
    blocked = next((folder for folder in (path, *path.absolute().parents) if folder.exists()), existing)
    if not blocked.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(blocked))


def nearest_folder(path: Path) -> Path:
    """The folder at the path, or the nearest one above it that is there."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file beside its place and moves it there; text as UTF-8."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content.encode("utf8") if isinstance(content, str) else content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
