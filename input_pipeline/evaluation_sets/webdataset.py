"""CLIP_benchmark's layout: ``{test,train}/{nshards.txt,0.tar,...}``, and beside them what the classes are called.

| member | of |
|---|---|
| ``.webp .png .jpg .jpeg`` | the image |
| ``.cls`` | its label, a number |
| ``.npy`` | its labels, an array of zeros and ones, where ``dataset_type.txt`` says ``multilabel`` |
| ``.npy`` beside ``.cls`` | what else is known, numbers of which the first is its group, as DataComp has them |
| ``.txt`` | its captions, a line each, where ``dataset_type.txt`` says ``retrieval`` |

The tars are listed once and read where they lie; nothing is extracted.
"""

import dataclasses
import functools
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import UnreadableError, UserError
from ..evaluation_sets.wording import NAMES, Wording, labelled, read_lines
from ..source import Truth

_IMAGES = ("webp", "png", "jpg", "jpeg")
_TYPES = {"classification": "cls", "multilabel": "npy", "retrieval": "txt"}


@dataclasses.dataclass(frozen=True)
class _Sample:
    """Where a sample's image lies, and what else is known of it."""

    tar: Path
    offset: int
    size: int
    told: bytes
    about: bytes | None


@dataclasses.dataclass(frozen=True)
class TarSplit:
    """The samples of a split; item ``i`` is ``{"image": encoded bytes, "text": captions}``."""

    samples: tuple[_Sample, ...]
    with_captions: bool
    truth: Truth

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        """Raises UnreadableError where the tar has become shorter."""
        sample = self.samples[index]
        try:
            with sample.tar.open("rb") as file:
                file.seek(sample.offset)
                image = file.read(sample.size)
        except OSError as error:
            raise UnreadableError(str(error)) from error
        if len(image) < sample.size:
            raise UnreadableError(f"{sample.tar} ends within the image")
        return {"image": image, "text": _captions(sample) if self.with_captions else []}


def open_set(path: Path, split: str, wording: Wording) -> TarSplit:
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
        return TarSplit(samples, True, Truth())
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
    if not lines or not lines[0].isdecimal() or not int(lines[0]):
        raise UserError(
            f"{folder / 'nshards.txt'}: expected the number of tars; found {'no file' if lines is None else lines}. Is "
            "the download complete?"
        )
    tars = [folder / f"{number}.tar" for number in range(int(lines[0]))]
    if missing := [tar for tar in tars if not tar.is_file()]:
        raise UserError(f"{missing[0]}: missing, {len(missing)} of {len(tars)} tars. Finish the download.")
    return tars


def _samples(tar: Path, suffix: str) -> list[_Sample]:
    places: dict[str, dict[str, tuple[int, int]]] = {}
    told: dict[str, bytes] = {}
    about: dict[str, bytes] = {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                if not member.isreg():
                    continue
                key, _, kind = member.name.rpartition(".")
                if kind.lower() in _IMAGES:
                    places.setdefault(key, {})[kind] = (member.offset_data, member.size)
                elif kind.lower() in (suffix, "npy"):
                    content = archive.extractfile(member)
                    (told if kind.lower() == suffix else about)[key] = content.read() if content else b""
            complete = archive.offset <= tar.stat().st_size
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise UserError(f"{tar}: not a whole tar ({error}). Fetch it again.") from error
    ends = max((offset + size for place in places.values() for offset, size in place.values()), default=0)
    if not complete or ends > tar.stat().st_size:
        raise UserError(f"{tar}: cut off, of {tar.stat().st_size:,} bytes. Fetch it again.")
    if lacking := [key for key in places if key not in told]:
        raise UserError(f"{tar}: {lacking[0]} has an image and no .{suffix}.")
    return [_Sample(tar, *next(iter(places[key].values())), told[key], about.get(key)) for key in places]


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
    except Exception as error:  # whatever NumPy's parser raises on bytes that are no array
        raise UserError(f"{tar}: a .npy is no array of numbers ({type(error).__name__}: {error}).") from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "biuf":
        raise UserError(f"{tar}: a .npy is no array of numbers, but {getattr(found, 'dtype', type(found).__name__)}.")
    return found.reshape(-1)
