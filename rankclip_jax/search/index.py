"""The embeddings of a dataset on disk, and the rows of it nearest to a query."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rankclip_jax.embedding.embedder import Embedded
from rankclip_jax.input_pipeline.files import write_atomically

_ABOUT = "about.json"
_KINDS = ("image", "text")
_COARSE = 128  # components that all rows are compared by, where they are many
_FEW = 100_000  # rows up to which all are compared as they are
_CANDIDATES = 2000  # rows that are compared as they are, of many
_SAMPLE = 20_000  # rows that the components are found from


class Index:
    """Unit embeddings of images and texts, with the number of the record that each belongs to.

    Of more than `_FEW` rows those are found first that are nearest in the 128 directions in which rows spread most,
    and the order among them is exact: a quarter of the memory is read.

    Args:
      folder: that `build` has written.
    """

    def __init__(self, folder: Path) -> None:
        self._rows = {kind: np.load(folder / f"{kind}.npy", mmap_mode="r") for kind in _KINDS}
        self._records = {kind: np.load(folder / f"{kind}_record.npy") for kind in _KINDS}
        self._places = np.load(folder / "text_place.npy")
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


def open_index(folder: Path, about: dict[str, Any], embed: Callable[[], Embedded]) -> Index:
    """The index in a folder if it is of these weights and data, or else a new one.

    Args:
      folder: where it is, or is to be.
      about: what it is of.
      embed: makes the embeddings.
    """
    try:
        found = json.loads((folder / _ABOUT).read_text(encoding="utf8"))
    except (OSError, ValueError):
        found = None
    if found != about:
        build(folder, about, embed())
    return Index(folder)


def build(folder: Path, about: dict[str, Any], embedded: Embedded) -> None:
    """Writes an index; ``about`` last, so that one that is cut off is none."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _ABOUT).unlink(missing_ok=True)
    records = {"image": embedded.index, "text": embedded.index[embedded.image_of_text]}
    for kind in _KINDS:
        np.save(folder / f"{kind}.npy", getattr(embedded, kind).astype(np.float32))
        np.save(folder / f"{kind}_record.npy", records[kind])
    owners = embedded.image_of_text
    np.save(folder / "text_place.npy", np.arange(len(owners)) - np.searchsorted(owners, owners))
    write_atomically(folder / _ABOUT, json.dumps(about) + "\n")


def _directions(rows: np.ndarray) -> np.ndarray:
    """The directions in which rows spread most: ``[D, 128]``, orthonormal."""
    sample = np.asarray(rows[:: max(len(rows) // _SAMPLE, 1)], np.float64)
    _, vectors = np.linalg.eigh(sample.T @ sample)
    return np.ascontiguousarray(vectors[:, ::-1][:, :_COARSE].astype(np.float32))


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    count = min(count, len(scores))
    return np.argpartition(-scores, count - 1)[:count]
