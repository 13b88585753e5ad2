"""The search index: the embeddings of a dataset on disk, and nearest-neighbour search in them."""

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

from rankclip_jax.cli.console import say
from rankclip_jax.evaluation.embedder import Embedded
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import open_regular, printable, read_json, write_atomically

_ABOUT = "about.json"
_KINDS = ("image", "text")
_NAMES = ("image.npy", "image_record.npy", "text.npy", "text_record.npy", "text_place.npy", "text_count.npy")
_OURS = re.compile(r"[0-9a-f]{16}(\.[^/]*\.partial)?")  # folders of finished and unfinished indexes
_ABANDONED = 3600  # seconds without a change after which an unfinished index counts as abandoned
_COARSE = 128  # principal components of the coarse search in large indexes
_FEW = 100_000  # rows up to which the search is exhaustive
_CANDIDATES = 2000  # rows of the coarse search that are ranked exactly
_SAMPLE = 20_000  # rows from which the principal components are computed


class Index:
    """Unit embeddings of images and texts, with the record index of each.

    Texts with the same tokens share one row, that of the first of them. With more than `_FEW` rows, a coarse search in
    128 principal components selects candidates, which are then ranked exactly; it reads a quarter of the memory.

    Args:
      folder: a folder that `build` has written.
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
        """Returns the position of a text row among its record's captions."""
        return int(self._places[number])

    def count_of_text(self, number: int) -> int:
        """Returns the number of captions in the dataset that share a text row."""
        return int(self._counts[number])

    def nearest(self, query: np.ndarray, kind: str, count: int) -> list[tuple[int, int, float]]:
        """Returns row index, record index and similarity of the rows nearest to a query, the most similar first.

        Args:
          query: a unit row ``[D]``.
          kind: ``"image"`` or ``"text"``.
          count: the maximum number of rows.
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


def local_path(folder: Path, about: dict[str, Any]) -> Path:
    """Returns the path of the index of these weights and data, whose name is a digest of both."""
    return folder / hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def open_index(folder: Path, about: dict[str, Any], embed: Callable[[], Embedded]) -> Index:
    """Opens the index of these weights and data after verifying its digests, or builds a new one.

    Args:
      folder: the parent folder of the index.
      about: the identity of the weights and the data.
      embed: computes the embeddings.
    """
    path = local_path(folder, about)
    fault = _check(path, about)
    if fault is None:
        with contextlib.suppress(OSError, ValueError):  # another process may have removed it since
            return Index(path)
    if fault:
        say(f"{printable(path)} is damaged ({printable(fault)}); rebuilding it")
    return build(folder, about, embed())


def build(folder: Path, about: dict[str, Any], embedded: Embedded) -> Index:
    """Writes an index to a temporary folder, renames it when it is complete, and opens it.

    Files that another process has open are never modified: it keeps searching the old index. Indexes of other weights
    or data in this folder, and abandoned unfinished ones, are removed.
    """
    path = local_path(folder, about)
    partial = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}.partial")
    partial.mkdir(parents=True)
    try:
        _write(partial, about, embedded)
        index = Index(partial)
        if path.exists() and _check(path, about) is not None:  # damaged, or of other weights or data
            with contextlib.suppress(OSError):  # another process has removed it
                path.rename(partial.with_name(f"{partial.name[: -len('.partial')]}.old.partial"))
        with contextlib.suppress(OSError):  # another process was faster: ours stays open until it is closed
            partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _remove_others(folder, path)
    return index


def _write(folder: Path, about: dict[str, Any], embedded: Embedded) -> None:
    """Writes the arrays, then their identity and digests."""
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
    """Returns the fault of an index; empty: no index; None: no fault."""
    if not folder.is_dir():
        return ""
    try:
        content = read_json(folder / _ABOUT)
        if content.get("of") != json.loads(json.dumps(about)):
            return "it belongs to other weights or data"
        if not isinstance(content.get("files"), dict) or set(content["files"]) != set(_NAMES):
            return f"{_ABOUT} does not list its files"
        for name, facts in content["files"].items():
            if _facts(folder / name) != facts:
                return f"{name} does not match its digest"
    except (OSError, UserError) as error:
        return str(error)
    return None


def _facts(file: Path) -> dict[str, Any]:
    """Returns size and digest of a file."""
    with open_regular(file) as content:
        digest = hashlib.file_digest(cast(io.BufferedReader, content), "sha256").hexdigest()
        return {"bytes": os.fstat(content.fileno()).st_size, "sha256": digest}


def _remove_others(folder: Path, kept: Path) -> None:
    for other in folder.iterdir():
        if other == kept or not _OURS.fullmatch(other.name) or not other.is_dir():
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
    """Returns the first principal directions of the rows, orthonormal: ``[D, 128]``."""
    sample = np.asarray(rows[:: max(len(rows) // _SAMPLE, 1)], np.float64)
    _, vectors = np.linalg.eigh(sample.T @ sample)
    return np.ascontiguousarray(vectors[:, ::-1][:, :_COARSE].astype(np.float32))


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    count = min(count, len(scores))
    return np.argpartition(-scores, count - 1)[:count]
