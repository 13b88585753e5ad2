"""What proves that a checkpoint is whole and this run's: digests of its files, and what it was saved by.

``SHA256SUMS`` is in the form of `sha256sum`, which reads it too. Both files are there when the checkpoint is committed,
at the latest; what Orbax writes in doing so is added a moment later.
"""

import concurrent.futures
import hashlib
import importlib.metadata
import json
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rankclip_jax import __version__
from rankclip_jax.input_pipeline import files
from rankclip_jax.input_pipeline.object_stores import sizes_below

SUMS = "SHA256SUMS"
ABOUT = "about.json"
# What Orbax writes while it commits, and how these files begin: all that is known of them until they are added.
_OF_THE_COMMIT = {
    "_CHECKPOINT_METADATA": '{"item_handlers": ',
    "commit_success.txt": "Checkpoint commit was successful",
}
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
    lines = [f"{_digest(folder / name)}  {name}\n" for name in names]
    files.write_atomically(folder / SUMS, "".join(lines))


def seal(folder: Path) -> None:
    """Adds the files that a commit has written to the digests of a checkpoint which nothing has happened to since."""
    added = "".join(f"{_digest(folder / name)}  {name}\n" for name in _OF_THE_COMMIT)
    files.write_atomically(folder / SUMS, (folder / SUMS).read_text(encoding="utf8") + added)


def has_proof(folder: Path) -> bool:
    """Whether the checkpoint was saved with one; earlier versions saved none."""
    return (folder / SUMS).exists() or (folder / ABOUT).exists()


def faults(folder: Path) -> Iterator[str]:
    """Why a checkpoint is not what was saved: a line for each file that is missing, altered or of something else."""
    sums = folder / SUMS
    try:
        lines = sums.read_text(encoding="utf8").splitlines()
    except (OSError, ValueError) as error:
        yield f"{sums} cannot be read ({type(error).__name__})"
        return
    expected: dict[str, str] = {}
    for line in lines:
        match = re.fullmatch(r"([0-9a-f]{64})  (\S.*)", line)
        if not match:
            yield f"{sums} is altered: {line[:80]!r} is no digest and name"
            return
        expected[match[2]] = match[1]
    found = sizes_below(folder).keys() - {SUMS} - (_OF_THE_COMMIT.keys() - expected.keys())
    yield from (f"{folder / name} is missing" for name in sorted(expected.keys() - found))
    yield from (f"{folder / name} is not of this checkpoint" for name in sorted(found - expected.keys()))
    both = sorted(expected.keys() & found)
    with concurrent.futures.ThreadPoolExecutor() as threads:
        for name, digest in zip(both, threads.map(_digest, [folder / name for name in both]), strict=True):
            if digest != expected[name]:
                yield f"{folder / name} is altered or cut off"
    for name, beginning in _OF_THE_COMMIT.items():
        if name not in expected and not _begins(folder / name, beginning):
            yield f"{folder / name} is missing or altered"


def about(folder: Path) -> dict[str, Any]:
    """What a checkpoint was saved by: ``step``, ``versions`` and ``settings``; its digest was looked at before."""
    return json.loads((folder / ABOUT).read_text(encoding="utf8"))


def _begins(path: Path, beginning: str) -> bool:
    try:
        return path.read_text(encoding="utf8").startswith(beginning)
    except (OSError, ValueError):
        return False


def _digest(path: Path) -> str:
    """Of a file's content; of one that cannot be read no digest at all."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
