"""What shows that a checkpoint is whole and this run's: digests of its files, and what it was saved by.

``SHA256SUMS`` is in the form of `sha256sum`, which reads it too. Both files are there when the checkpoint is committed,
at the latest; what Orbax writes in doing so is added a moment later. Digests prove integrity, not authorship: whoever
can write into the folder can write digests.
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
# What Orbax writes while it commits, and how these files begin: all that is known of them until they are added.
_OF_THE_COMMIT = {
    "_CHECKPOINT_METADATA": '{"item_handlers": ',
    "commit_success.txt": "Checkpoint commit was successful",
}
_ARRAYS = "default/"  # where Orbax puts them
_SECTIONS = ("data", "model", "objective", "optimizer", "train")  # of the settings, without which there is no run
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def write(folder: Path, step: int, settings: dict[str, Any]) -> None:
    """Writes both files into the folder of a checkpoint whose other files are complete.

    Args:
      folder: of the checkpoint.
      step: updates done.
      settings: of the run.
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
    names = sorted(sizes_below(folder).keys() - _OF_THE_COMMIT.keys() - {SUMS})
    files.write_atomically(folder / SUMS, "".join(f"{digest(folder / name)}  {name}\n" for name in names))


def finalize(folder: Path) -> None:
    """Adds the files that a commit has written to the digests of a checkpoint which nothing has happened to since."""
    added = "".join(f"{digest(folder / name)}  {name}\n" for name in _OF_THE_COMMIT)
    files.write_atomically(folder / SUMS, files.read_text(folder / SUMS) + added)


def faults(folder: Path) -> Iterator[str]:
    """Why a checkpoint is not what was saved: a line for each file that is missing, altered or of something else."""
    sums = folder / SUMS
    try:
        lines = files.read_text(sums).splitlines()
    except FileNotFoundError:
        yield f"{printable(sums)} is missing, so nothing shows that its files are what was saved"
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
            yield f"{printable(sums)} is altered: {line[:80]!r} is no digest and name"
            return
        expected[match[2]] = match[1]
    if not any(name.startswith(_ARRAYS) for name in expected):
        yield f"{printable(sums)} names no arrays"
    found = sizes_below(folder).keys() - {SUMS} - (_OF_THE_COMMIT.keys() - expected.keys())
    yield from (f"{printable(folder / name)} is missing" for name in sorted((expected.keys() | {ABOUT}) - found))
    yield from (f"{printable(folder / name)} is not of this checkpoint" for name in sorted(found - expected.keys()))
    both = sorted(expected.keys() & found)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        for name, found_digest in zip(both, threads.map(_digest_or_fault, [folder / x for x in both]), strict=True):
            if found_digest != expected[name]:
                fault = "is altered or cut off" if re.fullmatch("[0-9a-f]{64}", found_digest) else found_digest
                yield f"{printable(folder / name)} {fault}"
    for name, beginning in _OF_THE_COMMIT.items():
        if name not in expected and not _begins(folder / name, beginning):
            yield f"{printable(folder / name)} is missing or altered"


def about(folder: Path) -> dict[str, Any]:
    """What a checkpoint was saved by: ``step``, ``versions`` and ``settings``.

    Raises:
      OSError: it cannot be read.
      UserError: it is not what `write` writes.
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
            f"{printable(folder / ABOUT)} is not of the form in which a checkpoint's step, versions and "
            "settings are saved"
        )
    return content


def _begins(path: Path, beginning: str) -> bool:
    try:
        return files.read_text(path).startswith(beginning)
    except (OSError, UserError):
        return False


def digest(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits.

    Raises:
      OSError: it is not a regular file, or cannot be read.
    """
    with files.open_regular(path) as file:
        return hashlib.file_digest(cast(BufferedReader, file), "sha256").hexdigest()


def _digest_or_fault(path: Path) -> str:
    """Of a file's content; of one that cannot be read, why."""
    try:
        return digest(path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
