"""One job of a source to one shard of each split: filters, shrinking, and what was skipped and why."""

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

_NAMED = 20  # skipped things named for each reason and shard
_DIGEST_BYTES = 16


@dataclasses.dataclass(frozen=True)
class Options:
    """What is kept of the pairs, and how.

    Args:
      split: the split to write.
      validation_share: share of the pairs, by a hash of their keys, that goes to the split ``validation`` instead.
      shrink: short side, in pixels, that larger images are resized to; 0: keep the bytes.
      quality: of the JPEGs that shrinking writes, in [1, 95].
      min_side: images with a smaller short side are skipped; in pixels.
      max_pixels: images of more are not decoded, and skipped; see `images.open_image`.
      max_aspect: images whose long side is more than so many short ones are skipped; 0: any.
      min_caption, max_caption: bounds of a caption's length in characters; 0 as the upper one: any.
      drop_duplicates: keep the first of images whose bytes are equal.
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

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are written."""
        return (self.split, "validation") if self.validation_share else (self.split,)


@dataclasses.dataclass(frozen=True)
class Job:
    """A source's job, its number, and where its shards go."""

    number: int
    content: Any
    source: PairSource
    options: Options
    work: Path

    @property
    def summary(self) -> Path:
        """Its counts, written when all else is: a job that has this is done."""
        return self.work / f"{self.number:05}.json"

    def shard(self, split: str) -> Path:
        """Its records of a split, in this folder until all jobs are done."""
        return self.work / f"{self.number:05}.{split}"

    @property
    def digests(self) -> Path:
        """Hashes of the images' bytes, and once all jobs have theirs, which of them to keep."""
        return self.work / f"{self.number:05}.digests.npy"

    @property
    def kept(self) -> Path:
        """Which of its images are the first with their bytes."""
        return self.work / f"{self.number:05}.kept.npy"


class Lost:
    """Counts what is skipped, by reason, and names the first of each."""

    def __init__(self) -> None:
        self._counts = collections.Counter[str]()
        self._names: dict[str, list[str]] = collections.defaultdict(list)

    def add(self, skip: Skip) -> None:
        """Counts one."""
        self._counts[skip.reason] += 1
        if len(self._names[skip.reason]) < _NAMED:
            self._names[skip.reason].append(skip.name)

    def summary(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"skipped": dict(self._counts), "named": dict(self._names)}


def write(job: Job) -> None:
    """Writes the job's shards and then its summary; nothing of a job that was cut short counts."""
    from array_record.python.array_record_module import ArrayRecordWriter

    partial = {split: job.work / f"{job.number:05}.{split}.{os.getpid()}.partial" for split in job.options.splits}
    try:
        with _named_errors(job.work):
            writers = {
                split: ArrayRecordWriter(str(path), "group_size:1,uncompressed") for split, path in partial.items()
            }
        _write(job, partial, writers)
    finally:
        for path in partial.values():  # what a full disk left of it
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
            split = _split_of(item.key, job.options)
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
    """A context in which what the writer's C++ part says of the disk becomes an OSError that names the file."""
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
    """For each file of digests, writes beside it which of its images are the first with their bytes."""
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
    """By which a record is told from others."""
    return hashlib.sha256(record).hexdigest()


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def features() -> Any:
    """What a record holds, in TensorFlow Datasets' terms."""
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
    """A record: the bytes that TensorFlow Datasets reads back."""
    first, *others = (caption.encode() for caption in pair.captions)
    record = {"image": pair.image, "caption": first, "other_captions": others, "key": pair.key.encode()}
    # Otherwise the order of the features differs from process to process.
    return _serializer().get_tf_example(record).SerializeToString(deterministic=True)


@functools.cache
def _serializer() -> Any:
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    return ExampleSerializer(features().get_serialized_info())


def _kept(job: Job) -> Iterator[Pair | Skip]:
    """The job's pairs as they are to be written, and all that is skipped."""
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
    return Pair(pair.key, image, captions)


def _split_of(key: str, options: Options) -> str:
    """The same for a key in every run, on every machine."""
    if not options.validation_share:
        return options.split
    draw = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") / 2**64
    return "validation" if draw < options.validation_share else options.split
