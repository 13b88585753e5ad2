"""Prepared data: sharded ArrayRecord files in TensorFlow Datasets' layout, read without TensorFlow."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import itertools
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import tfds_folder
from .errors import UnreadableError, UserError
from .object_stores import is_remote, path_of, sizes_below
from .preparation import manifest
from .source import DataSource

_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class DamagedShard:
    """A shard that is not what was prepared: its records' numbers, and what is wrong with it."""

    first: int
    last: int
    reason: str


@dataclasses.dataclass(frozen=True)
class PreparedSplit:
    """A split of a prepared dataset; item ``i`` is ``{"image": encoded bytes, "text": one or more captions}``.

    Args:
      records: TensorFlow Datasets' own source.
      digest: of the shards as they were prepared.
      damaged: shards whose records are not read.
    """

    records: Sequence[dict]
    digest: str = ""
    damaged: tuple[DamagedShard, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        """Raises UnreadableError where the shard is damaged at this record."""
        for shard in self.damaged:
            if shard.first <= index <= shard.last:
                raise UnreadableError(shard.reason)
        try:
            record = self.records[index]
            captions = [record["caption"], *record.get("other_captions", ())]
            return {"image": record["image"], "text": [caption.decode("utf8") for caption in captions]}
        except Exception as error:  # whatever the readers' C++ and protobuf parts raise on damaged bytes
            raise UnreadableError(f"record {index}: {type(error).__name__}: {str(error).splitlines()[:1]}") from error

    def identity(self) -> dict[str, object]:
        """See `source.identity_of`."""
        return {"records": len(self), "shards": self.digest}

    @property
    def damaged_records(self) -> int:
        """How many records are in shards that are not what was prepared."""
        return sum(shard.last - shard.first + 1 for shard in self.damaged)


@dataclasses.dataclass(frozen=True)
class ArrayRecordSource(DataSource):
    """Prepared shards, on a disk or in an object store."""

    expects = "a prepared directory"
    in_object_stores = True
    holds_splits = True

    def open(self, path: str, split: str, *, image_size: int, seed: int) -> PreparedSplit:
        """The split of a prepared directory."""
        del image_size, seed
        if not path:
            raise UserError(f"config.data.{split}: not set. Use --config.data.{split}=DIR, {self.expects}.")
        return open_split(path, split, flag=f"config.data.{split}")


def open_split(path: str | Path, split: str, *, flag: str) -> PreparedSplit:
    """Opens a split of a directory that ``python -m input_pipeline.prepare`` wrote.

    Args:
      path: the directory, on a disk or in an object store.
      split: ``"train"`` or ``"validation"``.
      flag: the setting that named the directory, for errors.

    Raises:
      UserError: there is no such dataset, or it lacks the split.
    """
    folder = path_of(str(path))
    command = (
        f"python -m rankclip_jax.input_pipeline.prepare --source csv --input LIST.csv --split {split} --output {path}"
    )
    if not (folder / "dataset_info.json").exists():
        raise UserError(
            f"{flag}: no dataset at {path}. Prepare it with: {command} (--source also reads tsv, webdataset, folder, "
            f"tfds and urls), or point elsewhere: --{flag}=DIR"
        )
    try:
        builder = tfds_folder.open_builder(folder)
        splits = builder.info.splits
        there = split in splits
        records = _records(builder, split) if there else ()
        lengths = list(splits[split].shard_lengths) if there else []
    except Exception as error:  # whatever the reader's parts raise on damaged files, or on another format's
        words = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise UserError(
            f"{flag}: the dataset at {path} cannot be opened ({' '.join(words.split())[:500]}). Prepare it again with: "
            f"{command}"
        ) from error
    if not there:
        raise UserError(f"{flag}: {path} has no split {split!r}. Add it with: {command}")
    entry = manifest.read(folder)["splits"].get(split)
    if entry is None:  # prepared by TensorFlow Datasets itself
        return PreparedSplit(records, _digest([lengths, splits[split].num_bytes]))
    shards = entry["shards"]
    if lengths != [shard["pairs"] for shard in shards]:
        raise UserError(
            f"{flag}: {path}: dataset_info.json and manifest.json differ in the shards of {split!r}. Restore them, or "
            f"prepare the dataset again with: {command}"
        )
    damaged = _find_damaged(folder, shards)
    for shard in damaged:
        _LOGGER.warning("%s: %s; its records %d to %d are not read", flag, shard.reason, shard.first, shard.last)
    return PreparedSplit(records, _digest([shard["sha256"] for shard in shards]), damaged)


def _records(builder: Any, split: str) -> Sequence[dict]:
    import tensorflow_datasets as tfds  # where it is needed, since importing it takes seconds

    return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})


def _find_damaged(folder: Path, shards: list[dict[str, Any]]) -> tuple[DamagedShard, ...]:
    """Shards that are missing, of another size than when they were written, or with other records."""
    if is_remote(folder):  # a listing tells all sizes; to open each shard would ask the store several times
        sizes = sizes_below(folder)
        reasons = [_compare_size(folder / shard["file"], shard, sizes.get(shard["file"])) for shard in shards]
    else:
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            reasons = list(pool.map(functools.partial(_look_at, folder), shards))
    starts = itertools.accumulate((shard["pairs"] for shard in shards), initial=0)
    return tuple(
        DamagedShard(
            start, start + shard["pairs"] - 1, f"{reason}; restore it from a copy, or prepare the dataset again"
        )
        for shard, start, reason in zip(shards, starts, reasons, strict=False)
        if reason
    )


def _look_at(folder: Path, shard: dict[str, Any]) -> str | None:
    path = folder / shard["file"]
    try:
        stat = path.stat()
    except OSError:
        return _compare_size(path, shard, None)
    size = stat.st_size if path.is_file() else None
    return _compare_size(path, shard, size) or _compare_records(path, shard)


def _compare_size(path: Path, shard: dict[str, Any], size: int | None) -> str | None:
    """What is wrong with a shard's file, if anything is."""
    if size is None:
        return f"{path}: missing"
    return None if size == shard["bytes"] else f"{path}: {size:,} bytes, expected {shard['bytes']:,}"


def _compare_records(path: Path, shard: dict[str, Any]) -> str | None:
    """Whether a shard has the records that were prepared, as far as its first and its last tell."""
    from array_record.python.array_record_module import ArrayRecordReader

    from .preparation.shards import digest  # here, since it imports what decodes images

    try:
        reader = ArrayRecordReader(str(path), "readahead_buffer_size:0")
        count = reader.num_records()
        if count == shard["pairs"]:
            first, last = reader.read([0, count - 1])
            same = (digest(first), digest(last)) == (shard["first"], shard["last"])
            return None if same else f"{path}: other records than were prepared"
    except Exception:  # whatever the C++ part raises: the bytes are damaged, which each record that they are of tells
        return None
    return f"{path}: {count:,} records, expected {shard['pairs']:,}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
