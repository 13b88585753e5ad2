"""The manifest of a prepared directory, ``manifest.json``, next to TensorFlow Datasets' description."""

import collections
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import printable, read_json, write_atomically

DATASET = "pairs"  # fixed, so that equal data have equal files for any name of the directory
_VERSION = "1.0.0"
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_ENTRY = {"pairs", "bytes", "shards", "command", "captions"}  # keys of a split's entry
_SHARD = {"file": str, "pairs": int, "bytes": int, "sha256": str, "first": str, "last": str}
_NAMED = 100  # skipped items listed per reason


def shard_name(split: str, number: int, count: int) -> str:
    """Returns the file name of a shard, as TensorFlow Datasets expects it."""
    return f"{DATASET}-{split}.array_record-{number:05}-of-{count:05}"


def shard_pattern(split: str) -> str:
    """Returns the glob pattern of a split's shards."""
    return f"{DATASET}-{split}.array_record-*-of-*"


def path_in(folder: Path) -> Path:
    """Returns the path of a prepared directory's manifest."""
    return folder / "manifest.json"


def read(folder: Path) -> dict[str, Any]:
    """Returns the manifest, or an empty one if the file does not exist.

    Raises:
      UserError: the manifest is damaged.
    """
    if not path_in(folder).is_file():
        return {"splits": {}}
    advice = "Restore it, or prepare the dataset again."
    try:
        content = read_json(path_in(folder))
        splits = content.get("splits")
        if not isinstance(splits, dict) or not all(map(_is_entry, splits.values())):
            raise UserError("it lacks valid splits with shards")
    except UserError as error:
        raise UserError(
            f"{printable(path_in(folder))}: not a manifest of rankclip_jax.input_pipeline.prepare ({error}). {advice}"
        ) from error
    return content


def _is_entry(entry: Any) -> bool:
    """Whether a value is a valid entry of a split, with shards directly in the folder."""
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
    """Writes TensorFlow Datasets' description of the splits, and then the manifest."""
    _write_description(folder, content)
    write_atomically(path_in(folder), json.dumps(content, indent=2, sort_keys=True) + "\n")


def total(summaries: list[dict[str, Any]], split: str) -> tuple[dict[str, Any], list[int]]:
    """Returns the entry of a split, and the numbers of the jobs that have a shard of it, in order."""
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
    """Returns the number of images of a split per number of captions."""
    counts = collections.Counter[str]()
    for summary in summaries:
        counts.update(summary["captions"].get(split, {}))
    return {number: counts[number] for number in sorted(counts, key=int)}


def describe_skipped(entry: dict[str, Any]) -> list[str]:
    """Returns a line per reason, with the number of skipped items and the first of them."""
    lines = []
    for reason, value in entry.get("skipped", {}).items():
        examples = f", such as {', '.join(map(printable, value['first'][:3]))}" if value["first"] else ""
        lines.append(f"  skipped {value['count']:,}: {printable(reason)}{examples}")
    return lines


def skipped(summaries: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns the number of skipped items per reason, and the names of the first of them."""
    reasons: dict[str, dict[str, Any]] = {}
    for summary in summaries:
        for reason, count in summary["skipped"].items():
            entry = reasons.setdefault(reason, {"count": 0, "first": []})
            entry["count"] += count
            entry["first"] = (entry["first"] + summary["named"].get(reason, []))[:_NAMED]
    return reasons


def _write_description(folder: Path, content: dict[str, Any]) -> None:
    """Writes dataset_info.json and features.json, each atomically.

    They describe only the manifest's splits: `tfds.folder_dataset.write_metadata` would describe all shards in the
    folder, also those of a killed preparation.
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
