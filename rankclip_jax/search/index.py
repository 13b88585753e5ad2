"""The embeddings of a dataset on disk, and the rows of it nearest to a query."""

import contextlib
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from rankclip_jax.embedding.embedder import Embedded
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import open_regular, printable, read_json, write_atomically
from rankclip_jax.telemetry.console import say

_ABOUT = "about.json"
_KINDS = ("image", "text")
_NAMES = ("image.npy", "image_record.npy", "text.npy", "text_record.npy", "text_place.npy", "text_count.npy")
_OURS = re.compile(r"[0-9a-f]{16}(\.[^/]*\.partial)?")  # folders of indexes, and of those that were not finished
_ABANDONED = 3600  # seconds without a change after which an unfinished index is nobody's any more
_COARSE = 128  # components that all rows are compared by, where they are many
_FEW = 100_000  # rows up to which all are compared as they are
_CANDIDATES = 2000  # rows that are compared as they are, of many
_SAMPLE = 20_000  # rows that the components are found from


class Index:
    """Unit embeddings of images and texts, with the number of the record that each belongs to.

    Texts that read the same to the model are one row, of the first of them. Of more than `_FEW` rows those are found
    first that are nearest in the 128 directions in which rows spread most, and the order among them is exact: a quarter
    of the memory is read.

    Args:
      folder: that `build` has written.
    """

    def __init__(self, folder: Path) -> None:
        self._rows = {kind: np.load(folder / f"{kind}.npy", mmap_mode="r") for kind in _KINDS}
        self._records = {kind: np.load(folder / f"{kind}_record.npy") for kind in _KINDS}
        self._places, self._counts = (np.load(folder / f"text_{name}.npy") for name in ("place", "count"))
        self._directions: dict[str, np.ndarray] = {}
        self._coarse: dict[str, np.ndarray] = {}
        for kind, rows in self._rows.items():
            if len(rows) > _FEW:
                self._directions[kind] = _directions(rows)
                self._coarse[kind] = np.concatenate(
                    [rows[start : start + _FEW] @ self._directions[kind] for start in range(0, len(rows), _FEW)]
                )
            else:
                self._rows[kind] = np.array(rows)

    def __len__(self) -> int:
        return len(self._rows["image"])

    def place_of_text(self, number: int) -> int:
        """Which of its record's captions a row of the texts is."""
        return int(self._places[number])

    def count_of_text(self, number: int) -> int:
        """How many captions of the dataset read as this row of the texts does."""
        return int(self._counts[number])

    def nearest(self, query: np.ndarray, kind: str, count: int) -> list[tuple[int, int, float]]:
        """The rows most similar to a query: number, record and similarity of each, the most similar first.

        Args:
          query: a unit row ``[D]``.
          kind: ``"image"`` or ``"text"``.
          count: how many at most.
        """
        rows, among = self._rows[kind], None
        if kind in self._coarse:
            scores = self._coarse[kind] @ (query @ self._directions[kind])
            among = np.sort(_best(scores, _CANDIDATES))
            rows = rows[among]
        scores = np.asarray(rows @ query)
        best = _best(scores, count)
        best = best[np.argsort(-scores[best], kind="stable")]
        numbers = best if among is None else among[best]
        return [
            (int(number), int(self._records[kind][number]), float(score))
            for number, score in zip(numbers, scores[best], strict=True)
        ]


def folder_of(folder: Path, about: dict[str, Any]) -> Path:
    """Where below a folder the index of these weights and data is: a digest of both names it."""
    return folder / hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def open_index(folder: Path, about: dict[str, Any], embed: Callable[[], Embedded]) -> Index:
    """The index of these weights and data below a folder, checked to the last byte, or else a new one.

    Args:
      folder: where it is, or is to be.
      about: what it is of.
      embed: makes the embeddings.
    """
    here = folder_of(folder, about)
    wrong = _check(here, about)
    if wrong is None:
        with contextlib.suppress(OSError, ValueError):  # another process may have removed it since
            return Index(here)
    if wrong:
        say(f"{printable(here)} is damaged ({printable(wrong)}), so it is made again")
    return build(folder, about, embed())


def build(folder: Path, about: dict[str, Any], embedded: Embedded) -> Index:
    """Writes an index into a folder of its own, which gets its name when it is whole, and opens it.

    What is open elsewhere is never written to: whoever searches an index that is replaced keeps the old one. Indexes of
    other weights or data in this folder, and what was abandoned unfinished, are removed.
    """
    here = folder_of(folder, about)
    partial = here.with_name(f"{here.name}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}.partial")
    partial.mkdir(parents=True)
    try:
        _write(partial, about, embedded)
        index = Index(partial)
        if here.exists() and _check(here, about) is not None:  # damaged, or of something else
            with contextlib.suppress(OSError):  # another process has removed it
                here.rename(partial.with_name(f"{partial.name[: -len('.partial')]}.old.partial"))
        with contextlib.suppress(OSError):  # another process was faster: ours stays open until it is closed
            partial.rename(here)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _remove_others(folder, here)
    return index


def _write(folder: Path, about: dict[str, Any], embedded: Embedded) -> None:
    """The arrays, then what they are of and their digests."""
    owners = embedded.image_of_text
    _, first, count = np.unique(embedded.sentence, return_index=True, return_counts=True)
    order = np.argsort(first)
    first, count = first[order], count[order]
    arrays = {
        "image.npy": embedded.image.astype(np.float32),
        "image_record.npy": embedded.index,
        "text.npy": embedded.text[first].astype(np.float32),
        "text_record.npy": embedded.index[owners[first]],
        "text_place.npy": (np.arange(len(owners)) - np.searchsorted(owners, owners))[first],
        "text_count.npy": count,
    }
    files = {}
    for name, array in arrays.items():
        np.save(folder / name, array)
        files[name] = _facts(folder / name)
    write_atomically(folder / _ABOUT, json.dumps({"of": about, "files": files}) + "\n")


def _check(folder: Path, about: dict[str, Any]) -> str | None:
    """What is wrong with an index; empty: there is none; None: nothing."""
    if not folder.is_dir():
        return ""
    try:
        found = read_json(folder / _ABOUT)
        if found.get("of") != json.loads(json.dumps(about)):
            return "it is of other weights or data"
        if not isinstance(found.get("files"), dict) or set(found["files"]) != set(_NAMES):
            return f"{_ABOUT} does not list its files"
        for name, facts in found["files"].items():
            if _facts(folder / name) != facts:
                return f"{name} is not what was written"
    except (OSError, UserError) as error:
        return str(error)
    return None


def _facts(file: Path) -> dict[str, Any]:
    """Size and digest of a file."""
    with open_regular(file) as content:
        digest = hashlib.file_digest(cast(io.BufferedReader, content), "sha256").hexdigest()
        return {"bytes": os.fstat(content.fileno()).st_size, "sha256": digest}


def _remove_others(folder: Path, here: Path) -> None:
    for other in folder.iterdir():
        if other == here or not _OURS.fullmatch(other.name) or not other.is_dir():
            continue
        if other.suffix == ".partial" and ".old." not in other.name and not _is_abandoned(other):
            continue
        shutil.rmtree(other, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    try:
        return time.time() - max(path.stat().st_mtime for path in (folder, *folder.iterdir())) > _ABANDONED
    except OSError:  # it is being renamed or removed by the process that owns it
        return False


def _directions(rows: np.ndarray) -> np.ndarray:
    """The directions in which rows spread most: ``[D, 128]``, orthonormal."""
    sample = np.asarray(rows[:: max(len(rows) // _SAMPLE, 1)], np.float64)
    _, vectors = np.linalg.eigh(sample.T @ sample)
    return np.ascontiguousarray(vectors[:, ::-1][:, :_COARSE].astype(np.float32))


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    count = min(count, len(scores))
    return np.argpartition(-scores, count - 1)[:count]
