"""What a prepared directory says of itself: ``manifest.json``, beside TensorFlow Datasets' own description."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import open_regular, printable, read_json, write_atomically

DATASET = "pairs"  # a fixed name, so that equal data have equal files whatever the directory is called
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_ENTRY = {"pairs", "bytes", "shards", "command"}  # of a split
_SHARD = {"file": str, "pairs": int, "bytes": int, "sha256": str, "ends": str}
_NAMED = 100  # skipped things named for each reason
_END = 1 << 16  # bytes at either end of a shard that tell it from others


def shard_name(split: str, number: int, count: int) -> str:
    """The file of a shard, as TensorFlow Datasets expects it."""
    return f"{DATASET}-{split}.array_record-{number:05}-of-{count:05}"


def path_in(folder: Path) -> Path:
    """Where a prepared directory's manifest is."""
    return folder / "manifest.json"


def read(folder: Path) -> dict[str, Any]:
    """The manifest; an empty one where there is none.

    Raises:
      UserError: it is damaged.
    """
    if not path_in(folder).is_file():
        return {"splits": {}}
    mend = "Restore it, or prepare the dataset again."
    try:
        content = read_json(path_in(folder))
    except UserError as error:
        raise UserError(f"{error} {mend}") from error
    splits = content.get("splits")
    if not isinstance(splits, dict) or not all(map(_is_entry, splits.values())):
        raise UserError(f"{printable(path_in(folder))}: not what input_pipeline.prepare writes. {mend}")
    return content


def _is_entry(entry: Any) -> bool:
    """Whether a value is what the manifest says of a split; its shards are in the folder itself."""
    return (
        isinstance(entry, dict)
        and entry.keys() >= _ENTRY
        and isinstance(entry["pairs"], int)
        and isinstance(entry["bytes"], int)
        and isinstance(entry["shards"], list)
        and all(isinstance(shard, dict) and _is_shard(shard) for shard in entry["shards"])
    )


def _is_shard(shard: dict[str, Any]) -> bool:
    return all(isinstance(shard.get(name), kind) for name, kind in _SHARD.items()) and os.sep not in shard["file"]


def digest_of_ends(path: Path) -> str:
    """A digest of a file's first and last bytes, by which one shard is told from another without reading it all."""
    with open_regular(path) as file:
        digest = hashlib.sha256(file.read(_END))
        file.seek(max(file.seek(0, os.SEEK_END) - _END, 0))
        digest.update(file.read(_END))
    return digest.hexdigest()


def write(folder: Path, content: dict[str, Any]) -> None:
    """Writes the manifest, and first TensorFlow Datasets' description of the same splits."""
    _write_description(folder, content)
    write_atomically(path_in(folder), json.dumps(content, indent=2, sort_keys=True) + "\n")


def total(summaries: list[dict[str, Any]], split: str) -> tuple[dict[str, Any], list[int]]:
    """A split's entry, and which of the summaries' jobs have a shard of it, in order."""
    numbers = [number for number, summary in enumerate(summaries) if split in summary["shards"]]
    shards = [summaries[number]["shards"][split] for number in numbers]
    files = [{"file": shard_name(split, index, len(shards))} | shard for index, shard in enumerate(shards)]
    entry = {
        "pairs": sum(shard["pairs"] for shard in shards),
        "bytes": sum(shard["bytes"] for shard in shards),
        "shards": files,
    }
    return entry, numbers


def skipped(summaries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each reason, how many were skipped, and the names of the first of them."""
    reasons: dict[str, dict[str, Any]] = {}
    for summary in summaries:
        for reason, count in summary["skipped"].items():
            entry = reasons.setdefault(reason, {"count": 0, "first": []})
            entry["count"] += count
            entry["first"] = (entry["first"] + summary["named"].get(reason, []))[:_NAMED]
    return reasons


def _write_description(folder: Path, content: dict[str, Any]) -> None:
    import tensorflow_datasets as tfds

    from ..preparation.shards import features

    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[shard["pairs"] for shard in entry["shards"]],
            num_bytes=entry["bytes"],
            filename_template=tfds.core.ShardedFileTemplate(
                data_dir=folder, template=_TEMPLATE, dataset_name=DATASET, split=split, filetype_suffix="array_record"
            ),
        )
        for split, entry in content["splits"].items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features(), split_infos=infos, filename_template=_TEMPLATE, check_data=False
    )
