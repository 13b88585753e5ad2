"""Runs and prepared data in Google Cloud Storage, ``gs://bucket/folder``: where paths differ from those of disks.

Such a path is an `etils.epath.Path`, which reads, writes and lists through gcsfs as a `pathlib.Path` does. TensorStore
and ArrayRecord read and write the large files themselves.
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
    """Whether the path is of an object store."""
    return "://" in str(path)


def path_of(words: str) -> Path:
    """The path that a person names, on a disk, where ``~`` is the home folder, or in an object store.

    Raises:
      UserError: it is of a store that checkpoints and prepared data cannot be in, or the store's package is missing.
    """
    if re.match(r"[a-z0-9]+:/(?!/)", words):
        raise UserError(f"{words}: neither a path of a disk nor of a store, which has two slashes, as gs://bucket/run.")
    if not is_remote(words):
        return _expanded(words)
    if not words.startswith("gs://"):
        raise UserError(
            f"{words}: of object stores gs:// alone can be used, since Orbax and ArrayRecord read no other. Mount it "
            "as a folder, or copy it to a disk."
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(f"{words}: gs:// needs the package gcsfs. Install it with: pip install gcsfs")
    for name in ("gs", "gcs"):  # what another process has written would not be seen
        fsspec.config.conf.setdefault(name, {})["use_listings_cache"] = False
    return cast(Path, epath.Path(words))


def disk_path_of(words: str) -> Path:
    """The path that a person names where it can be on a disk alone; a type of argparse's."""
    if is_remote(words):
        raise argparse.ArgumentTypeError(f"{words}: expected a path on a disk")
    return _expanded(words)


def _expanded(words: str) -> Path:
    """With the home folder in place of ``~``, as a shell gives it; of ``--flag=~/x`` it does not."""
    return Path(os.path.expanduser(words))


def absolute(path: Path) -> Path:
    """A path that does not depend on the folder in which the process is."""
    return path if is_remote(path) else path.absolute()


def resolve(path: Path) -> Path:
    """The same without symbolic links."""
    return path if is_remote(path) else path.resolve()


def check_writable(folder: Path) -> None:
    """Raises OSError where nothing can be written below a folder of a store; nothing is left there."""
    probe = folder / f"probe.{socket.gethostname()}.{os.getpid()}"
    write(probe, b"")
    probe.unlink()


def write(path: Path, content: bytes) -> None:
    """Writes an object, which is there whole or not at all.

    Raises:
      OSError: it cannot be written, whatever the store's library calls that.
    """
    _put(path, content, "overwrite")


def create(path: Path, content: bytes) -> bool:
    """Writes an object if there is none; whether there was none.

    Raises:
      OSError: as `write`.
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
    """The files below a folder, by their names from there, and their bytes."""
    if not is_remote(folder):
        files = [path for path in folder.rglob("*") if not path.is_dir()]
        return {path.relative_to(folder).as_posix(): _size_of(path) for path in files}
    store, root = fsspec.core.url_to_fs(str(folder))
    found = store.find(root, detail=True).items()
    return {name.removeprefix(root).lstrip("/"): about["size"] for name, about in found}


def _size_of(file: Path) -> int:
    """Of a file on a disk; of one that is gone, or leads nowhere, none."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def time_of(path: Path) -> float:
    """When a file was written last, in seconds since 1970."""
    return epath.Path(path).stat().mtime if is_remote(path) else path.stat().st_mtime


def move_folder(folder: Path, to: Path) -> None:
    """Gives a folder another name: in a store each of its files, one after the other."""
    if is_remote(folder):
        store, name = fsspec.core.url_to_fs(str(folder))
        _, other = fsspec.core.url_to_fs(str(to))
        for file in store.find(name):
            store.mv(file, f"{other}{file.removeprefix(name)}")
    else:
        folder.rename(to)


def remove_folder(folder: Path) -> None:
    """Removes a folder and what can be removed below it; one that is not there is no error."""
    if is_remote(folder):
        epath.Path(folder).rmtree(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
