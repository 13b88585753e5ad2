"""Writes one job of a source as one shard per split: filters, resizing, and counts of skipped items."""

import collections
import contextlib
import dataclasses
import errno
import functools
import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .. import images
from ..errors import UnreadableError
from ..files import write_atomically
from ..preparation.pairs import Pair, PairSource, Skip

_NAMED = 20  # skipped items listed per reason and shard
_DIGEST_BYTES = 16


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of filtering and resizing the pairs.

    Args:
      split: the split to write.
      validation_share: fraction of the pairs, by a hash of their keys, that goes to the split ``validation`` instead.
      shrink: resize larger images to this short side in pixels; 0: keep the bytes.
      quality: JPEG quality of resized images, in [1, 95].
      min_side: skip images with a smaller short side, in pixels.
      max_pixels: skip images with more pixels without decoding them; see `images.open_image`.
      max_aspect: skip images with a larger ratio of long to short side; 0: no limit.
      min_caption, max_caption: bounds of a caption's length in characters; ``max_caption=0``: no limit.
      drop_duplicates: keep only the first of images with equal bytes.
      own_splits: the splits that the source itself assigns pairs to; empty: it assigns none.
    """

    split: str = "train"
    validation_share: float = 0.0
    shrink: int = 256
    quality: int = 92
    max_pixels: int = images.MAX_PIXELS
    min_side: int = 0
    max_aspect: float = 0.0
    min_caption: int = 1
    max_caption: int = 0
    drop_duplicates: bool = False
    own_splits: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits to write."""
        if self.own_splits:
            return self.own_splits
        return (self.split, "validation") if self.validation_share else (self.split,)


@dataclasses.dataclass(frozen=True)
class Job:
    """A job of a source: its number, its content, and the paths of its files."""

    number: int
    content: Any
    source: PairSource
    options: Options
    work: Path

    @property
    def summary(self) -> Path:
        """The file of its counts, written last: a job with this file is finished."""
        return self.work / f"{self.number:05}.json"

    def shard(self, split: str) -> Path:
        """The file of its records of a split, in the work folder until all jobs are finished."""
        return self.work / f"{self.number:05}.{split}"

    @property
    def digests(self) -> Path:
        """The file of the hashes of its images' bytes."""
        return self.work / f"{self.number:05}.digests.npy"

    @property
    def kept(self) -> Path:
        """The file that marks which of its images are the first with their bytes."""
        return self.work / f"{self.number:05}.kept.npy"


class Lost:
    """Counts skipped items by reason, and lists the first of each."""

    def __init__(self) -> None:
        self._counts = collections.Counter[str]()
        self._names: dict[str, list[str]] = collections.defaultdict(list)

    def add(self, skip: Skip) -> None:
        """Counts a skipped item."""
        self._counts[skip.reason] += 1
        if len(self._names[skip.reason]) < _NAMED:
            self._names[skip.reason].append(skip.name)

    def summary(self) -> dict[str, Any]:
        """Returns the counts as plain values for JSON."""
        return {"skipped": dict(self._counts), "named": dict(self._names)}


def write(job: Job) -> None:
    """Writes the job's shards and then its summary; an interrupted job leaves no shard."""
    from array_record.python.array_record_module import ArrayRecordWriter

    partial = {split: job.work / f"{job.number:05}.{split}.{os.getpid()}.partial" for split in job.options.splits}
    try:
        with _named_errors(job.work):
            writers = {
                split: ArrayRecordWriter(str(path), "group_size:1,uncompressed") for split, path in partial.items()
            }
        _write(job, partial, writers)
    finally:
        for path in partial.values():  # leftovers after a full disk
            path.unlink(missing_ok=True)


def _write(job: Job, partial: dict[str, Path], writers: dict[str, Any]) -> None:
    pairs = collections.Counter[str]()
    captions: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
    ends: dict[str, tuple[bytes, bytes]] = {}  # the first and the last record
    lost = Lost()
    for item in _kept(job):
        if isinstance(item, Skip):
            lost.add(item)
        else:
            split = item.split or _split_of(item.key, job.options)
            record = serialize(item)
            with _named_errors(partial[split]):
                writers[split].write(record)
            ends[split] = (ends.get(split, (record,))[0], record)
            pairs[split] += 1
            captions[split][len(item.captions)] += 1
    summary: dict[str, Any] = lost.summary() | {"shards": {}, "captions": captions}
    for split, path in partial.items():
        with _named_errors(path):
            writers[split].close()
        if pairs[split]:
            size = path.stat().st_size
            digests = {name: digest(record) for name, record in zip(("first", "last"), ends[split], strict=True)}
            summary["shards"][split] = {"pairs": pairs[split], "bytes": size, "sha256": checksum(path), **digests}
            path.replace(job.shard(split))
    write_atomically(job.summary, json.dumps(summary).encode())


@contextlib.contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Turns disk errors of the C++ writer into OSErrors that name the file."""
    try:
        yield
    except RuntimeError as error:
        code = next((code for code in errno.errorcode if os.strerror(code) in str(error)), errno.EIO)
        raise OSError(code, os.strerror(code), str(path)) from error


def write_digests(job: Job) -> None:
    """Writes a hash of each image's bytes, in the source's order."""
    digests = [
        hashlib.blake2b(item.image, digest_size=_DIGEST_BYTES).digest()
        for item in job.source.read(job.content)
        if isinstance(item, Pair)
    ]
    _save(job.digests, np.frombuffer(b"".join(digests), np.uint8).reshape(-1, _DIGEST_BYTES))


def mark_first_of_equals(jobs: list[Path]) -> None:
    """Writes a file next to each file of digests, with flags for the first image of each digest."""
    parts = [np.load(path) for path in jobs]
    rows = np.concatenate(parts) if parts else np.zeros((0, _DIGEST_BYTES), np.uint8)
    _, first = np.unique(np.ascontiguousarray(rows).view(f"V{_DIGEST_BYTES}")[:, 0], return_index=True)
    kept = np.zeros(len(rows), bool)
    kept[first] = True
    start = 0
    for path, part in zip(jobs, parts, strict=True):
        _save(path.with_name(path.name.replace("digests", "kept")), kept[start : start + len(part)])
        start += len(part)


def _save(path: Path, array: np.ndarray) -> None:
    content = io.BytesIO()
    np.save(content, array)
    write_atomically(path, content.getvalue())


def digest(record: bytes) -> str:
    """Returns the digest of a record."""
    return hashlib.sha256(record).hexdigest()


def checksum(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def features() -> Any:
    """Returns the TensorFlow Datasets features of a record."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(),
            "caption": tfds.features.Text(),
            "other_captions": tfds.features.Sequence(tfds.features.Text()),
            "key": tfds.features.Text(),
        }
    )


def serialize(pair: Pair) -> bytes:
    """Serializes a pair as a record of TensorFlow Datasets."""
    first, *others = (caption.encode() for caption in pair.captions)
    record = {"image": pair.image, "caption": first, "other_captions": others, "key": pair.key.encode()}
    # Otherwise the order of the features differs from process to process.
    return _serializer().get_tf_example(record).SerializeToString(deterministic=True)


@functools.cache
def _serializer() -> Any:
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    return ExampleSerializer(features().get_serialized_info())


def _kept(job: Job) -> Iterator[Pair | Skip]:
    """Yields the job's pairs to write, and its skipped items."""
    first_of_equals = iter(np.load(job.kept)) if job.options.drop_duplicates else None
    for item in job.source.read(job.content):
        if isinstance(item, Skip):
            yield item
        elif first_of_equals is not None and not next(first_of_equals):
            yield Skip("duplicate image", item.key)
        else:
            yield _filtered(item, job.options)


def _filtered(pair: Pair, options: Options) -> Pair | Skip:
    longest = options.max_caption or max(map(len, pair.captions))
    captions = tuple(caption for caption in pair.captions if options.min_caption <= len(caption) <= longest)
    if not captions:
        return Skip("caption too short or too long", pair.key)
    try:
        width, height = images.check(pair.image, options.max_pixels)
        if min(width, height) < options.min_side:
            return Skip("image too small", pair.key)
        if options.max_aspect and max(width, height) > options.max_aspect * min(width, height):
            return Skip("image too long", pair.key)
        image = pair.image
        if options.shrink:
            image = images.shrink(image, options.shrink, options.quality, options.max_pixels)
    except UnreadableError as error:
        return Skip("unreadable image", f"{pair.key}: {error}")
    return dataclasses.replace(pair, image=image, captions=captions)


def _split_of(key: str, options: Options) -> str:
    """Returns the split of a key, the same in every run on every machine."""
    if not options.validation_share:
        return options.split
    draw = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64
    return "validation" if draw < options.validation_share else options.split
