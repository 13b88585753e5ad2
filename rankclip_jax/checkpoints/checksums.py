"""Checksums of a checkpoint's files, and a record of its step, versions and settings.

``SHA256SUMS`` has the format of `sha256sum`, which can verify it. It and ``about.json`` exist before the checkpoint is
committed; the digests of the files that Orbax writes during the commit are added right after it. Digests prove
integrity, not authorship: anyone who can write to the folder can write digests.
"""

import concurrent.futures
import hashlib
import importlib.metadata
import json
import platform
import re
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

from rankclip_jax import __version__
from rankclip_jax.input_pipeline import files
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import printable
from rankclip_jax.input_pipeline.object_stores import sizes_below

SUMS = "SHA256SUMS"
ABOUT = "about.json"
# The files that Orbax writes during the commit, with their first characters: the only check until their digests exist.
_COMMIT_FILES = {
    "_CHECKPOINT_METADATA": '{"item_handlers": ',
    "commit_success.txt": "Checkpoint commit was successful",
}
_ARRAYS = "default/"  # where Orbax stores the arrays
_SECTIONS = ("data", "model", "objective", "optimizer", "train")  # sections that the settings of every run have
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def write(folder: Path, step: int, settings: dict[str, Any]) -> None:
    """Writes ``about.json`` and ``SHA256SUMS`` into the folder of a checkpoint whose other files are complete.

    Args:
      folder: the folder of the checkpoint.
      step: the number of completed updates.
      settings: the run's settings.
    """
    about = {
        "step": step,
        "versions": {
            "rankclip_jax": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _LIBRARIES},
        },
        "settings": settings,
    }
    files.write_atomically(folder / ABOUT, json.dumps(about, indent=2) + "\n")
    names = sorted(sizes_below(folder).keys() - _COMMIT_FILES.keys() - {SUMS})
    files.write_atomically(folder / SUMS, "".join(f"{digest(folder / name)}  {name}\n" for name in names))


def finalize(folder: Path) -> None:
    """Appends the digests of the commit's files to ``SHA256SUMS``, right after the commit."""
    added = "".join(f"{digest(folder / name)}  {name}\n" for name in _COMMIT_FILES)
    files.write_atomically(folder / SUMS, files.read_text(folder / SUMS) + added)


def faults(folder: Path) -> Iterator[str]:
    """Yields a line for each file of a checkpoint that is missing, altered or unexpected."""
    sums = folder / SUMS
    try:
        lines = files.read_text(sums).splitlines()
    except FileNotFoundError:
        yield f"{printable(sums)} is missing, so the checkpoint cannot be verified"
        return
    except OSError as error:
        yield f"{printable(sums)} cannot be read ({error.strerror})"
        return
    except UserError as error:
        yield str(error)
        return
    expected: dict[str, str] = {}
    for line in lines:
        match = re.fullmatch(r"([0-9a-f]{64})  (\S.*)", line)
        if not match:
            yield f"{printable(sums)} is altered: expected a digest and a file name; found {line[:80]!r}"
            return
        expected[match[2]] = match[1]
    if not any(name.startswith(_ARRAYS) for name in expected):
        yield f"{printable(sums)} lists no arrays"
    present = sizes_below(folder).keys() - {SUMS} - (_COMMIT_FILES.keys() - expected.keys())
    yield from (f"{printable(folder / name)} is missing" for name in sorted((expected.keys() | {ABOUT}) - present))
    yield from (
        f"{printable(folder / name)} does not belong to this checkpoint" for name in sorted(present - expected.keys())
    )
    both = sorted(expected.keys() & present)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        for name, found_digest in zip(both, threads.map(_digest_or_fault, [folder / x for x in both]), strict=True):
            if found_digest != expected[name]:
                fault = "is altered or truncated" if re.fullmatch("[0-9a-f]{64}", found_digest) else found_digest
                yield f"{printable(folder / name)} {fault}"
    for name, beginning in _COMMIT_FILES.items():
        if name not in expected and not _begins(folder / name, beginning):
            yield f"{printable(folder / name)} is missing or altered"


def about(folder: Path) -> dict[str, Any]:
    """Returns the record in ``about.json``: ``step``, ``versions`` and ``settings``.

    Raises:
      OSError: the file cannot be read.
      UserError: the file is not in the format of `write`.
    """
    content = files.read_json(folder / ABOUT)
    step, versions, settings = (content.get(name) for name in ("step", "versions", "settings"))
    if (
        type(step) is not int
        or not isinstance(versions, dict)
        or not all(isinstance(version, str) for version in versions.values())
        or not versions.keys() >= {"rankclip_jax", "jax"}
        or not isinstance(settings, dict)
        or not all(isinstance(settings.get(name), dict) for name in _SECTIONS)
    ):
        raise UserError(
            f"{printable(folder / ABOUT)} is not a valid record of a checkpoint's step, versions and settings"
        )
    return content


def _begins(path: Path, beginning: str) -> bool:
    try:
        return files.read_text(path).startswith(beginning)
    except (OSError, UserError):
        return False


def digest(path: Path) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal.

    Raises:
      OSError: the path is not a regular file, or cannot be read.
    """
    with files.open_regular(path) as file:
        return hashlib.file_digest(cast(BufferedReader, file), "sha256").hexdigest()


def _digest_or_fault(path: Path) -> str:
    """Returns the digest of a file, or why it cannot be read."""
    try:
        return digest(path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
