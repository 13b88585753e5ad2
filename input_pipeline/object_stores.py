"""Paths of runs and prepared data on disks and in Google Cloud Storage, ``gs://bucket/folder``.

A path in a store is an `etils.epath.Path`, with the interface of `pathlib.Path` on top of gcsfs. TensorStore and
ArrayRecord read and write the large files themselves.
"""

import argparse
import errno
import importlib.util
import os
import re
import shutil
import socket
from pathlib import Path
from typing import cast

import fsspec
from etils import epath

from .errors import UserError


def is_remote(path: Path | str) -> bool:
    """Whether the path is in an object store."""
    return "://" in str(path)


def path_of(words: str) -> Path:
    """Parses a path from the user: on a disk, with ``~`` for the home folder, or in an object store.

    Raises:
      UserError: the store is not supported, or its package is missing.
    """
    if re.match(r"[a-z0-9]+:/(?!/)", words):
        raise UserError(f"{words}: expected two slashes in the path of an object store. Use gs://bucket/run.")
    if not is_remote(words):
        return _expanded(words)
    if not words.startswith("gs://"):
        raise UserError(
            f"{words}: only gs:// object stores are supported, since Orbax and ArrayRecord read no others. Mount the "
            "store as a folder, or copy the data to a disk."
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(f"{words}: gs:// needs the package gcsfs. Install it with: pip install gcsfs")
    for name in ("gs", "gcs"):  # a cache would hide files that other processes write
        fsspec.config.conf.setdefault(name, {})["use_listings_cache"] = False
    return cast(Path, epath.Path(words))


def disk_path_of(words: str) -> Path:
    """Parses a local path from the user, as a type for argparse."""
    if is_remote(words):
        raise argparse.ArgumentTypeError(f"{words}: expected a local path")
    return _expanded(words)


def _expanded(words: str) -> Path:
    """Expands ``~``, since shells do not expand it in ``--flag=~/x``."""
    return Path(os.path.expanduser(words))


def absolute(path: Path) -> Path:
    """Returns an absolute path."""
    return path if is_remote(path) else path.absolute()


def resolve(path: Path) -> Path:
    """Returns an absolute path without symbolic links."""
    return path if is_remote(path) else path.resolve()


def check_writable(folder: Path) -> None:
    """Raises OSError if a folder of a store is not writable; leaves nothing there."""
    probe = folder / f"probe.{socket.gethostname()}.{os.getpid()}"
    write(probe, b"")
    probe.unlink()


def write(path: Path, content: bytes) -> None:
    """Writes an object atomically.

    Raises:
      OSError: the object cannot be written, for any error of the store's library.
    """
    _put(path, content, "overwrite")


def create(path: Path, content: bytes) -> bool:
    """Writes an object if none exists; returns whether it was written.

    Raises:
      OSError: as in `write`.
    """
    try:
        _put(path, content, "create")
    except FileExistsError:
        return False
    return True


def _put(path: Path, content: bytes, mode: str) -> None:
    store, name = fsspec.core.url_to_fs(str(path))
    try:
        store.pipe_file(name, content, mode=mode)
    except FileExistsError:
        raise
    except Exception as error:
        words = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise OSError(errno.EIO, words, str(path)) from error


def sizes_below(folder: Path) -> dict[str, int]:
    """Returns the sizes in bytes of all files below a folder, by relative name."""
    if not is_remote(folder):
        files = [path for path in folder.rglob("*") if not path.is_dir()]
        return {path.relative_to(folder).as_posix(): _size_of(path) for path in files}
    store, root = fsspec.core.url_to_fs(str(folder))
    details = store.find(root, detail=True).items()
    return {name.removeprefix(root).lstrip("/"): detail["size"] for name, detail in details}


def _size_of(file: Path) -> int:
    """Returns the size of a local file, or 0 for a missing file or broken link."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def time_of(path: Path) -> float:
    """Returns a file's modification time, in seconds since 1970."""
    return epath.Path(path).stat().mtime if is_remote(path) else path.stat().st_mtime


def move_folder(folder: Path, to: Path) -> None:
    """Renames a folder; in a store, moves its files one by one."""
    if is_remote(folder):
        store, name = fsspec.core.url_to_fs(str(folder))
        _, other = fsspec.core.url_to_fs(str(to))
        for file in store.find(name):
            store.mv(file, f"{other}{file.removeprefix(name)}")
    else:
        folder.rename(to)


def remove_folder(folder: Path) -> None:
    """Removes a folder and everything that can be removed below it; ignores a missing folder."""
    if is_remote(folder):
        epath.Path(folder).rmtree(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
