"""What a prepared directory says of itself: ``manifest.json``, beside TensorFlow Datasets' own description."""

import collections
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import printable, read_json, write_atomically

DATASET = "pairs"  # a fixed name, so that equal data have equal files whatever the directory is called
_VERSION = "1.0.0"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_ENTRY = {"pairs", "bytes", "shards", "command", "captions"}  # of a split
_SHARD = {"file": str, "pairs": int, "bytes": int, "sha256": str, "first": str, "last": str}
_NAMED = 100  # skipped things named for each reason


def shard_name(split: str, number: int, count: int) -> str:
    """The file of a shard, as TensorFlow Datasets expects it."""
    return f"{DATASET}-{split}.array_record-{number:05}-of-{count:05}"


def shard_pattern(split: str) -> str:
    """What the names of all files match that may be shards of a split."""
    return f"{DATASET}-{split}.array_record-*-of-*"


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
        splits = content.get("splits")
        if not isinstance(splits, dict) or not all(map(_is_entry, splits.values())):
            raise UserError("it has no splits with their shards")
    except UserError as error:
        raise UserError(
            f"{printable(path_in(folder))}: not what input_pipeline.prepare writes ({error}). {mend}"
        ) from error
    return content


def _is_entry(entry: Any) -> bool:
    """Whether a value is what the manifest says of a split; its shards are in the folder itself."""
    return (
        isinstance(entry, dict)
        and entry.keys() >= _ENTRY
        and isinstance(entry["pairs"], int)
        and isinstance(entry["bytes"], int)
        and isinstance(entry["shards"], list)
        and isinstance(counts := entry["captions"], dict)
        and bool(counts)
        and all(number.isdecimal() and isinstance(count, int) and count > 0 for number, count in counts.items())
        and all(isinstance(shard, dict) and _is_shard(shard) for shard in entry["shards"])
        and isinstance(skipped := entry.get("skipped", {}), dict)
        and all(isinstance(value, dict) and _is_skipped(value) for value in skipped.values())
    )


def _is_skipped(value: dict[str, Any]) -> bool:
    return isinstance(value.get("count"), int) and isinstance(value.get("first"), list)


def _is_shard(shard: dict[str, Any]) -> bool:
    return all(isinstance(shard.get(name), kind) for name, kind in _SHARD.items()) and os.sep not in shard["file"]


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
        "captions": _captions(summaries, split),
        "shards": files,
    }
    return entry, numbers


def _captions(summaries: list[dict[str, Any]], split: str) -> dict[str, int]:
    """How many images of a split have so many captions."""
    counts = collections.Counter[str]()
    for summary in summaries:
        counts.update(summary["captions"].get(split, {}))
    return {number: counts[number] for number in sorted(counts, key=int)}


def describe_skipped(entry: dict[str, Any]) -> list[str]:
    """A line for each reason, with how many things a split's preparation skipped and the first of them."""
    lines = []
    for reason, value in entry.get("skipped", {}).items():
        named = f", such as {', '.join(map(printable, value['first'][:3]))}" if value["first"] else ""
        lines.append(f"  skipped {value['count']:,}: {printable(reason)}{named}")
    return lines


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
    """Writes dataset_info.json and features.json, each there whole or not at all.

    They describe the manifest's splits and no others: `tfds.folder_dataset.write_metadata` would describe all shards
    that lie in the folder, also those of a preparation that was killed.
    """
    import tensorflow_datasets as tfds

    from ..preparation.shards import features

    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, template=_TEMPLATE, dataset_name=DATASET, filetype_suffix="array_record"
    )
    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[shard["pairs"] for shard in entry["shards"]],
            num_bytes=entry["bytes"],
            filename_template=template.replace(split=split),
        )
        for split, entry in sorted(content["splits"].items())
    ]
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=DATASET, version=tfds.core.Version(_VERSION), data_dir=str(folder), module_name=""
    )
    info = tfds.core.DatasetInfo(builder=identity, features=features())
    info.set_file_format("array_record")
    info.set_splits(tfds.core.splits.SplitDict(infos))
    with tempfile.TemporaryDirectory(dir=folder, prefix=".description-") as partial:
        info.write_to_directory(partial)
        for path in sorted(Path(partial).iterdir()):
            path.replace(folder / path.name)
