"""CLIP_benchmark's layout: ``{test,train}/{nshards.txt,0.tar,...}``, with files of class names next to them.

| member | content |
|---|---|
| ``.webp .png .jpg .jpeg``, and the other `IMAGE_SUFFIXES` | the image; of several, the first in this order |
| ``.cls`` | its label, a number |
| ``.npy`` | its labels, an array of zeros and ones, if ``dataset_type.txt`` says ``multilabel`` |
| ``.npy`` next to ``.cls`` | metadata, an array whose first number is its group, as in DataComp |
| ``.txt`` | its captions, a line each, if ``dataset_type.txt`` says ``retrieval`` |

The tars are indexed once and read in sample_key; nothing is extracted. The members of a sample, which share a key (see
`tars`), may be in any order. Hidden files and other suffixes are ignored. Since an evaluation needs complete data, a
damaged tar, a link, an image without a label, a label without an image, and duplicate members raise UserError.
"""

import dataclasses
import functools
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .. import tars
from ..errors import UnreadableError, UserError
from ..evaluation_sets.wording import NAMES, ClassPrompts, labelled, read_lines
from ..file_names import IMAGE_SUFFIXES
from ..files import open_regular, printable
from ..preparation.pairs import Skip
from ..source import GroundTruth
from ..tars import Member

_TYPES = {"classification": ".cls", "multilabel": ".npy", "retrieval": ".txt"}
_ORDER = {suffix: number for number, suffix in enumerate(IMAGE_SUFFIXES)}  # begins as CLIP_benchmark's
_MOST_TARS = 1_000_000


@dataclasses.dataclass(frozen=True)
class _Sample:
    """The location of a sample's image, its annotation (label or captions), and its metadata."""

    name: str
    tar: Path
    offset: int
    size: int
    annotation: bytes
    metadata: bytes | None

    @property
    def npy(self) -> str:
        """The name of its array, for errors."""
        return f"{self.tar}: the .npy of {printable(self.name)}"


@dataclasses.dataclass(frozen=True)
class TarSplit:
    """The samples of a split; item ``i`` is ``{"image": encoded bytes, "text": captions, "key": name}``."""

    samples: tuple[_Sample, ...]
    with_captions: bool
    truth: GroundTruth

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        """Returns a sample; raises UnreadableError if the tar has become shorter."""
        sample = self.samples[index]
        try:
            with open_regular(sample.tar) as file:
                file.seek(sample.offset)
                image = file.read(sample.size)
        except OSError as error:
            raise UnreadableError(str(error)) from error
        if len(image) < sample.size:
            raise UnreadableError(f"{sample.tar} ends within the image")
        captions = _captions(sample) if self.with_captions else []
        return {"image": image, "text": captions, "key": f"{sample.tar.name}/{sample.name}"}


def matches(path: Path, split: str) -> bool:
    """Whether the split has tars."""
    return any((path / split).glob("*.tar"))


def open_set(path: Path, split: str, wording: ClassPrompts) -> TarSplit:
    """See `evaluation_sets.open_set`."""
    kind = (read_lines(path / "dataset_type.txt") or ["classification"])[0].lower()
    if kind not in _TYPES:
        raise UserError(f"{path / 'dataset_type.txt'}: expected one of {', '.join(_TYPES)}; found {kind!r}.")
    samples = tuple(sample for tar in _tars(path / split) for sample in _samples(tar, _TYPES[kind]))
    if not samples:
        raise UserError(f"{path / split}: expected samples in the tars; found none.")
    if kind == "retrieval":
        for sample in samples:
            _captions(sample)
        return TarSplit(samples, True, GroundTruth())
    labels = _vectors(samples) if kind == "multilabel" else _numbers(samples)
    truth = labelled(wording, read_lines(path / NAMES), labels, path, path / split)
    if kind == "classification" and all(sample.metadata is not None for sample in samples):
        truth = dataclasses.replace(truth, groups=functools.partial(_groups, samples))
    return TarSplit(samples, False, truth)


def _groups(samples: Sequence[_Sample], numbers: Sequence[int]) -> np.ndarray:
    groups = []
    for number in numbers:
        row = _array(samples[number], samples[number].metadata or b"")
        if not row.size or row[0] != np.floor(row[0]):  # only the first number of the metadata is used
            raise UserError(
                f"{samples[number].tar}: expected a whole number as the group in .npy; found "
                f"{row[0] if row.size else 'nothing'}."
            )
        groups.append(int(row[0]))
    return np.asarray(groups, int)


def _tars(folder: Path) -> list[Path]:
    lines = read_lines(folder / "nshards.txt")
    if not lines or not re.fullmatch("[0-9]{1,7}", lines[0]) or not 0 < int(lines[0]) <= _MOST_TARS:
        shown = "no file" if lines is None else printable(lines[:3])
        raise UserError(
            f"{folder / 'nshards.txt'}: expected the number of tars, 1 to {_MOST_TARS:,}; found {shown}. Check that "
            "the download is complete."
        )
    paths = [folder / f"{number}.tar" for number in range(int(lines[0]))]
    if missing := [tar for tar in paths if not tar.is_file()]:
        raise UserError(
            f"{missing[0]}: missing, with {len(missing)} of {len(paths)} tars missing. Complete the download."
        )
    return paths


def _samples(tar: Path, suffix: str) -> list[_Sample]:
    """The samples of a tar, in the order of their first images.

    Args:
      tar: the file.
      suffix: the suffix of the members with annotations.

    Raises:
      UserError: the tar is damaged or incomplete.
    """
    images: dict[tuple[int, str], dict[str, Member]] = {}
    annotations: dict[tuple[int, str], bytes] = {}
    metadata: dict[tuple[int, str], bytes] = {}
    kinds = {".npy": metadata, suffix: annotations}
    for item in tars.members(tar, lambda member: tars.LARGEST_TEXT if member.suffix in kinds else 0):
        if isinstance(item, Skip):
            if item.reason in (tars.HIDDEN, tars.NO_SUFFIX, tars.EMPTY):
                continue
            raise UserError(
                f"{tar}: {item.reason} ({item.name}). Download it again, or pack it again with regular files only."
            )
        (member, content), name = item, printable(item[0].key + item[0].suffix)
        sample_key = member.archive, member.key
        if member.suffix in kinds:
            if content is None:
                raise UserError(f"{tar}: {name} has {member.size:,} bytes; expected at most {tars.LARGEST_TEXT:,}.")
            if sample_key in kinds[member.suffix]:
                raise UserError(f"{tar}: {name} is a duplicate member. Remove one of the two.")
            kinds[member.suffix][sample_key] = content
        elif member.suffix in IMAGE_SUFFIXES:
            if member.size > tars.LARGEST_IMAGE:
                raise UserError(f"{tar}: {name} has {member.size:,} bytes; expected at most {tars.LARGEST_IMAGE:,}.")
            if member.suffix in images.setdefault(sample_key, {}):
                raise UserError(f"{tar}: {name} is a duplicate member. Remove one of the two.")
            images[sample_key][member.suffix] = member
    if incomplete := next((sample_key for sample_key in images if sample_key not in annotations), None):
        raise UserError(f"{tar}: {printable(incomplete[1])} has an image, but no {suffix}. Download the tar again.")
    if incomplete := next((sample_key for sample_key in annotations if sample_key not in images), None):
        raise UserError(
            f"{tar}: {printable(incomplete[1])} has a {suffix}, but no image ({', '.join(IMAGE_SUFFIXES)}). "
            "Download the tar again."
        )
    first = {
        sample_key: min(found.values(), key=lambda member: _ORDER[member.suffix])
        for sample_key, found in images.items()
    }
    return [
        _Sample(sample_key[1], tar, image.offset, image.size, annotations[sample_key], metadata.get(sample_key))
        for sample_key, image in first.items()
    ]


def _captions(sample: _Sample) -> list[str]:
    try:
        texts = sample.annotation.decode("utf8").splitlines()
    except ValueError as error:
        raise UserError(f"{sample.tar}: expected UTF-8 text in each .txt; found another encoding.") from error
    if not texts:
        raise UserError(f"{sample.tar}: expected captions in each .txt; found an empty one.")
    return texts


def _numbers(samples: Sequence[_Sample]) -> np.ndarray:
    try:
        return np.asarray([int(sample.annotation) for sample in samples])
    except ValueError as error:
        raise UserError(f"{samples[0].tar.parent}: expected a whole number in each .cls ({error}).") from error


def _vectors(samples: Sequence[_Sample]) -> np.ndarray:
    """Returns the multi-label annotations, one row per image."""
    rows = [_array(sample, sample.annotation) for sample in samples]
    for sample, row in zip(samples, rows, strict=True):
        if row.size != rows[0].size:
            raise UserError(
                f"{sample.npy} has {row.size} labels; expected {rows[0].size}, as for the first image. Download the "
                "tar again."
            )
        if other := [value for value in row.tolist() if value not in (0, 1)]:
            raise UserError(f"{sample.npy} has the label {other[0]}; expected zeros and ones. Download the tar again.")
    return np.stack(rows).astype(np.int64)


def _array(sample: _Sample, content: bytes) -> np.ndarray:
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # NumPy may read a .npy as zip or pickle, and raises their errors too
        raise UserError(
            f"{sample.npy} is not an array of numbers ({printable(error)}). Download the tar again."
        ) from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise UserError(
            f"{sample.npy} is not an array of numbers; found {getattr(array, 'dtype', type(array).__name__)}. Download "
            "the tar again."
        )
    return array.reshape(-1)
