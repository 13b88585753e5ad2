"""CLIP_benchmark's layout: ``{test,train}/{nshards.txt,0.tar,...}``, and beside them what the classes are called.

| member | of |
|---|---|
| ``.webp .png .jpg .jpeg``, and what else `IMAGE_SUFFIXES` has | the image; of several the first in this order |
| ``.cls`` | its label, a number |
| ``.npy`` | its labels, an array of zeros and ones, where ``dataset_type.txt`` says ``multilabel`` |
| ``.npy`` beside ``.cls`` | what else is known, numbers of which the first is its group, as DataComp has them |
| ``.txt`` | its captions, a line each, where ``dataset_type.txt`` says ``retrieval`` |

The tars are listed once and read where they lie; nothing is extracted. Members of a sample, which is all members of
one key (see `tars`), may stand in any order. A system's own files and other suffixes are left alone. Since a measure
needs everything else, a damaged tar, a link in it, an image without a label, a label without an image, and two members
of one name are refused.
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
    """Where a sample's image lies, and what else is known of it."""

    name: str
    tar: Path
    offset: int
    size: int
    told: bytes
    about: bytes | None


@dataclasses.dataclass(frozen=True)
class TarSplit:
    """The samples of a split; item ``i`` is ``{"image": encoded bytes, "text": captions, "key": its name}``."""

    samples: tuple[_Sample, ...]
    with_captions: bool
    truth: GroundTruth

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        """Raises UnreadableError where the tar has become shorter."""
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
    """Whether there are tars of the split."""
    return any((path / split).glob("*.tar"))


def open_set(path: Path, split: str, wording: ClassPrompts) -> TarSplit:
    """See `evaluation_sets.open_set`."""
    kind = (read_lines(path / "dataset_type.txt") or ["classification"])[0].lower()
    if kind not in _TYPES:
        raise UserError(f"{path / 'dataset_type.txt'}: expected one of {', '.join(_TYPES)}; found {kind!r}.")
    samples = tuple(sample for tar in _tars(path / split) for sample in _samples(tar, _TYPES[kind]))
    if not samples:
        raise UserError(f"{path / split}: no samples in its tars.")
    if kind == "retrieval":
        for sample in samples:
            _captions(sample)
        return TarSplit(samples, True, GroundTruth())
    labels = _vectors(samples) if kind == "multilabel" else _numbers(samples)
    truth = labelled(wording, read_lines(path / NAMES), labels, path, path / split)
    if kind == "classification" and all(sample.about is not None for sample in samples):
        truth = dataclasses.replace(truth, groups=functools.partial(_groups, samples))
    return TarSplit(samples, False, truth)


def _groups(samples: Sequence[_Sample], numbers: Sequence[int]) -> np.ndarray:
    found = []
    for number in numbers:
        row = _array(samples[number].tar, samples[number].about or b"")
        if not row.size or row[0] != np.floor(row[0]):  # of what else is known only the first is used
            raise UserError(
                f"{samples[number].tar}: a .npy is {'empty' if not row.size else f'of {row[0]}'}, and names no group."
            )
        found.append(int(row[0]))
    return np.asarray(found, int)


def _tars(folder: Path) -> list[Path]:
    lines = read_lines(folder / "nshards.txt")
    if not lines or not re.fullmatch("[0-9]{1,7}", lines[0]) or not 0 < int(lines[0]) <= _MOST_TARS:
        shown = "no file" if lines is None else printable(lines[:3])
        raise UserError(
            f"{folder / 'nshards.txt'}: expected the number of tars, 1 to {_MOST_TARS:,}; found {shown}. Is the "
            "download complete?"
        )
    found = [folder / f"{number}.tar" for number in range(int(lines[0]))]
    if missing := [tar for tar in found if not tar.is_file()]:
        raise UserError(f"{missing[0]}: missing, {len(missing)} of {len(found)} tars. Finish the download.")
    return found


def _samples(tar: Path, suffix: str) -> list[_Sample]:
    """The samples of a tar, in the order of their first images.

    Args:
      tar: the file.
      suffix: of the members that say what is known of the images.

    Raises:
      UserError: it is damaged, or lacks something.
    """
    images: dict[tuple[int, str], dict[str, Member]] = {}
    told: dict[tuple[int, str], bytes] = {}
    about: dict[tuple[int, str], bytes] = {}
    kinds = {".npy": about, suffix: told}
    for item in tars.members(tar, lambda member: tars.LARGEST_TEXT if member.suffix in kinds else 0):
        if isinstance(item, Skip):
            if item.reason in (tars.HIDDEN, tars.NO_SUFFIX, tars.EMPTY):
                continue
            raise UserError(
                f"{tar}: {item.reason} ({item.name}). Fetch it again, or pack it anew with plain files only."
            )
        (member, content), name = item, printable(item[0].key + item[0].suffix)
        place = member.archive, member.key
        if member.suffix in kinds:
            if content is None:
                raise UserError(f"{tar}: {name} has {member.size:,} bytes; expected at most {tars.LARGEST_TEXT:,}.")
            if place in kinds[member.suffix]:
                raise UserError(f"{tar}: {name} is there twice. Which of them is right?")
            kinds[member.suffix][place] = content
        elif member.suffix in IMAGE_SUFFIXES:
            if member.size > tars.LARGEST_IMAGE:
                raise UserError(f"{tar}: {name} has {member.size:,} bytes; expected at most {tars.LARGEST_IMAGE:,}.")
            if member.suffix in images.setdefault(place, {}):
                raise UserError(f"{tar}: {name} is there twice. Which of them is right?")
            images[place][member.suffix] = member
    if lacking := next((place for place in images if place not in told), None):
        raise UserError(f"{tar}: {printable(lacking[1])} has an image and no {suffix}.")
    if lacking := next((place for place in told if place not in images), None):
        raise UserError(f"{tar}: {printable(lacking[1])} has a {suffix} and no image ({', '.join(IMAGE_SUFFIXES)}).")
    first = {place: min(found.values(), key=lambda one: _ORDER[one.suffix]) for place, found in images.items()}
    return [
        _Sample(place[1], tar, image.offset, image.size, told[place], about.get(place))
        for place, image in first.items()
    ]


def _captions(sample: _Sample) -> list[str]:
    try:
        found = sample.told.decode("utf8").splitlines()
    except ValueError as error:
        raise UserError(f"{sample.tar}: a .txt is not UTF-8 text.") from error
    if not found:
        raise UserError(f"{sample.tar}: an image has an empty .txt and so no caption.")
    return found


def _numbers(samples: Sequence[_Sample]) -> np.ndarray:
    try:
        return np.asarray([int(sample.told) for sample in samples])
    except ValueError as error:
        raise UserError(f"{samples[0].tar.parent}: a .cls is no whole number ({error}).") from error


def _vectors(samples: Sequence[_Sample]) -> np.ndarray:
    """The labels of images that may have several, one row each."""
    rows = [_array(sample.tar, sample.told) for sample in samples]
    for sample, row in zip(samples, rows, strict=True):
        if row.size != rows[0].size:
            raise UserError(f"{sample.tar}: a .npy has {row.size} labels, that of the first image {rows[0].size}.")
        if other := [value for value in row.tolist() if value not in (0, 1)]:
            raise UserError(f"{sample.tar}: a .npy has the label {other[0]}; expected zeros and ones.")
    return np.stack(rows).astype(np.int64)


def _array(tar: Path, content: bytes) -> np.ndarray:
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # NumPy takes a .npy for a zip or Python's own words, and raises what their readers do
        raise UserError(f"{tar}: a .npy is no array of numbers ({printable(error)}).") from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "biuf":
        raise UserError(f"{tar}: a .npy is no array of numbers, but {getattr(found, 'dtype', type(found).__name__)}.")
    return found.reshape(-1)
