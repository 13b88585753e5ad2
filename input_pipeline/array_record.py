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
    """A damaged shard: the numbers of its first and last record, and the reason."""

    first: int
    last: int
    reason: str


@dataclasses.dataclass(frozen=True)
class PreparedSplit:
    """A split of a prepared dataset; item ``i`` is ``{"image": encoded bytes, "text": one or more captions}``.

    Args:
      records: TensorFlow Datasets' data source.
      digest: the digest of the shards as prepared.
      damaged: shards whose records are skipped.
    """

    records: Sequence[dict]
    digest: str = ""
    damaged: tuple[DamagedShard, ...] = ()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        """Returns a record; raises UnreadableError if the shard is damaged there."""
        for shard in self.damaged:
            if shard.first <= index <= shard.last:
                raise UnreadableError(shard.reason)
        try:
            record = self.records[index]
            captions = [record["caption"], *record.get("other_captions", ())]
            return {"image": record["image"], "text": [caption.decode("utf8") for caption in captions]}
        except Exception as error:  # the C++ reader and protobuf raise many types on damaged bytes
            raise UnreadableError(f"record {index}: {type(error).__name__}: {str(error).splitlines()[:1]}") from error

    def keys(self) -> list[str]:
        """Returns the key of each record; empty for records without one, or damaged ones."""
        return [self._key(index) for index in range(len(self))]

    def _key(self, index: int) -> str:
        try:
            return self.records[index].get("key", b"").decode("utf8")
        except Exception:  # as in `__getitem__`
            return ""

    def identity(self) -> dict[str, object]:
        """See `source.identity_of`."""
        return {"records": len(self), "shards": self.digest}

    @property
    def damaged_records(self) -> int:
        """The number of records in damaged shards."""
        return sum(shard.last - shard.first + 1 for shard in self.damaged)


@dataclasses.dataclass(frozen=True)
class ArrayRecordSource(DataSource):
    """Prepared ArrayRecord shards, on a disk or in an object store."""

    expects = "a prepared directory"
    in_object_stores = True
    holds_splits = True

    def open(self, path: str, split: str, *, image_size: int, seed: int) -> PreparedSplit:
        """Opens a split of a prepared directory."""
        del image_size, seed
        if not path:
            raise UserError(f"config.data.{split}: not set. Use --config.data.{split}=DIR, {self.expects}.")
        return open_split(path, split, flag=f"config.data.{split}")


def open_split(path: str | Path, split: str, *, flag: str) -> PreparedSplit:
    """Opens a split of a directory that ``python -m rankclip_jax.input_pipeline.prepare`` wrote.

    Args:
      path: the directory, on a disk or in an object store.
      split: ``"train"`` or ``"validation"``.
      flag: the setting that names the directory, for errors.

    Raises:
      UserError: the dataset is missing or damaged, or lacks the split.
    """
    folder = path_of(str(path))
    command = (
        f"python -m rankclip_jax.input_pipeline.prepare --source csv --input LIST.csv --split {split} --output {path}"
    )
    if not (folder / "dataset_info.json").exists():
        raise UserError(
            f"{flag}: no dataset at {path}. Prepare it with: {command} (--source also reads tsv, webdataset, folder, "
            f"tfds, urls and iconify), or use another folder: --{flag}=DIR"
        )
    try:
        builder = tfds_folder.open_builder(folder)
        splits = builder.info.splits
        has_split = split in splits
        records = _records(builder, split) if has_split else ()
        lengths = list(splits[split].shard_lengths) if has_split else []
    except Exception as error:  # the readers raise many types on damaged files and other formats
        words = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise UserError(
            f"{flag}: the dataset at {path} cannot be opened ({' '.join(words.split())[:500]}). Prepare it again with: "
            f"{command}"
        ) from error
    if not has_split:
        raise UserError(f"{flag}: {path} has no split {split!r}. Add it with: {command}")
    entry = manifest.read(folder)["splits"].get(split)
    if entry is None:  # prepared by TensorFlow Datasets itself
        return PreparedSplit(records, _digest([lengths, splits[split].num_bytes]))
    shards = entry["shards"]
    if lengths != [shard["pairs"] for shard in shards]:
        raise UserError(
            f"{flag}: {path}: dataset_info.json and manifest.json list different shards of {split!r}. Restore them, or "
            f"prepare the dataset again with: {command}"
        )
    damaged = _find_damaged(folder, shards)
    for shard in damaged:
        _LOGGER.warning("%s: %s; skipping its records %d to %d", flag, shard.reason, shard.first, shard.last)
    return PreparedSplit(records, _digest([shard["sha256"] for shard in shards]), damaged)


def _records(builder: Any, split: str) -> Sequence[dict]:
    import tensorflow_datasets as tfds  # here, since importing it takes seconds

    return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})


def _find_damaged(folder: Path, shards: list[dict[str, Any]]) -> tuple[DamagedShard, ...]:
    """Returns the shards that are missing, or differ from the manifest in size or records."""
    if is_remote(folder):  # one listing gives all sizes; opening each shard would take several requests
        sizes = sizes_below(folder)
        reasons = [_compare_size(folder / shard["file"], shard, sizes.get(shard["file"])) for shard in shards]
    else:
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            reasons = list(pool.map(functools.partial(_compare, folder), shards))
    starts = itertools.accumulate((shard["pairs"] for shard in shards), initial=0)
    return tuple(
        DamagedShard(
            start, start + shard["pairs"] - 1, f"{reason}; restore it from a copy, or prepare the dataset again"
        )
        for shard, start, reason in zip(shards, starts, reasons, strict=False)
        if reason
    )


def _compare(folder: Path, shard: dict[str, Any]) -> str | None:
    path = folder / shard["file"]
    try:
        stat = path.stat()
    except OSError:
        return _compare_size(path, shard, None)
    size = stat.st_size if path.is_file() else None
    return _compare_size(path, shard, size) or _compare_records(path, shard)


def _compare_size(path: Path, shard: dict[str, Any], size: int | None) -> str | None:
    """Returns the fault of a shard's file by its size, or None."""
    if size is None:
        return f"{path}: missing"
    return None if size == shard["bytes"] else f"{path}: {size:,} bytes, expected {shard['bytes']:,}"


def _compare_records(path: Path, shard: dict[str, Any]) -> str | None:
    """Returns the fault of a shard by its record count and its first and last record, or None."""
    from array_record.python.array_record_module import ArrayRecordReader

    from .preparation.shards import digest  # here, since it imports the image decoders

    try:
        reader = ArrayRecordReader(str(path), "readahead_buffer_size:0")
        count = reader.num_records()
        if count == shard["pairs"]:
            first, last = reader.read([0, count - 1])
            is_same = (digest(first), digest(last)) == (shard["first"], shard["last"])
            return None if is_same else f"{path}: its records differ from the prepared ones"
    except Exception:  # any type from the C++ reader: damaged records raise their own error when read
        return None
    return f"{path}: {count:,} records, expected {shard['pairs']:,}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
