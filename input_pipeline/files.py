"""Files that are there either whole or not at all."""

import errno
import os
import tempfile
from pathlib import Path

from input_pipeline import object_stores


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
