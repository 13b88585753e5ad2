"""Embeddings of a dataset, stored in a folder: written once by `rankclip_jax.embed`, read for each batch.

The folder has an ``embeddings.json``, and for each 65,536 records three NumPy arrays: ``image-N.npy`` float16
``[n, D]``, ``text-N.npy`` float16 ``[m, D]`` with all captions, and ``first-N.npy`` int64 ``[n + 1]``, the row of each
record's first caption. Rows have unit norm.
"""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np

from .errors import UserError
from .files import number, read_json, write_atomically
from .source import Mixture, Source, identity_of

CHUNK = 65_536  # records
_FACTS = "embeddings.json"


def is_stored(path: Path) -> bool:
    """Whether a path is a folder of stored embeddings."""
    return (path / _FACTS).exists()


@dataclasses.dataclass(frozen=True)
class StoredEmbeddings:
    """The embeddings in a folder.

    Args:
      folder: the folder.
      records: number of records.
      width: of the embeddings.
      scale: the model's multiplier of similarities.
      data: the identity of the data, see `identity_of`.
    """

    folder: Path
    records: int
    width: int
    scale: float
    data: list

    @classmethod
    def open(cls, folder: Path) -> "StoredEmbeddings":
        """Opens a folder.

        Raises:
          UserError: the folder is damaged or not finished.
        """
        facts = read_json(folder / _FACTS)
        records, width, scale = (number(facts.get(name)) for name in ("records", "width", "scale"))
        if not records or not width or not scale or not isinstance(facts.get("data"), list):
            raise UserError(f"{folder / _FACTS}: expected records, width, scale and data; found {sorted(facts)}.")
        stored = cls(folder, int(records), int(width), scale, facts["data"])
        if missing := [part for part in range(stored.parts) if not path_of(folder, "first", part).exists()]:
            raise UserError(
                f"{folder}: expected {stored.parts} parts; part {missing[0]} is missing. Run rankclip_jax.embed again, "
                "which continues where it stopped."
            )
        return stored

    @property
    def parts(self) -> int:
        """The number of parts of 65,536 records."""
        return -(-self.records // CHUNK)

    def check(self, source: Source | Mixture) -> None:
        """Raises UserError unless the embeddings are those of a dataset."""
        if self.data != json.loads(json.dumps(identity_of(source))):
            raise UserError(
                f"{self.folder}: expected embeddings of the training data; found those of other data. Run "
                "rankclip_jax.embed for these data."
            )

    def rows(self, sample: np.ndarray, caption: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns embeddings of images and captions, float32 ``[b, D]``, scaled so that their products are logits.

        Args:
          sample: int ``[b]``, indices of records.
          caption: int ``[b]``, which of each record's captions.
        """
        image, text = np.zeros((2, len(sample), self.width), np.float32)
        for row, (index, which) in enumerate(zip(sample.tolist(), caption.tolist(), strict=True)):
            part, offset = divmod(index, CHUNK)
            images, texts, first = _part(self.folder, part)
            image[row] = images[offset]
            if first[offset] + which < first[offset + 1]:  # unreadable images have no captions
                text[row] = texts[first[offset] + which]
        root = np.float32(np.sqrt(self.scale))
        return root * image, root * text


@functools.cache
def _part(folder: Path, part: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the arrays of a part, memory-mapped."""
    image, text, first = (path_of(folder, kind, part) for kind in ("image", "text", "first"))
    try:
        return np.load(image, "r"), np.load(text, "r"), np.load(first, "r")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{folder}: part {part} is damaged ({error}). Remove it, and run embed again.") from error


def path_of(folder: Path, kind: str, part: int) -> Path:
    """Returns the path of one array of a part."""
    return folder / f"{kind}-{part:05}.npy"


def write_facts(folder: Path, stored: StoredEmbeddings, weights: str) -> None:
    """Writes what the folder holds, or checks it if it is there.

    Raises:
      UserError: the folder has embeddings of other weights or data.
    """
    facts = {
        "records": stored.records,
        "width": stored.width,
        "scale": stored.scale,
        "weights": weights,
        "data": stored.data,
    }
    facts = json.loads(json.dumps(facts))
    path = folder / _FACTS
    if path.exists() and read_json(path) != facts:
        raise UserError(f"--output: {folder} has embeddings of other weights or data. Use another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(facts, indent=2) + "\n")
