"""Sources, decoding, tokenizer and the loader: everything up to a batch of uint8 pixels and token ids."""

from pathlib import Path

from ml_collections import ConfigDict

from . import array_record, csv_file, scenes
from .errors import UserError
from .object_stores import is_remote
from .source import Mixture, Source

SOURCES = ("scenes", "csv", "array_record")


def has_validation(config: ConfigDict) -> bool:
    """Whether ``config.data`` describes a validation split."""
    if config.source == "scenes":
        return config.validation_examples > 0
    return config.source != "csv" or bool(config.validation)


def open_source(config: ConfigDict, split: str, *, image_size: int, seed: int) -> Source:
    """Opens the ``"train"`` or ``"validation"`` split that ``config.data`` describes.

    Raises:
      UserError: the data are not there or not what the settings say.
    """
    if config.source == "scenes":
        if config[split]:
            raise UserError(
                f"config.data.{split}: config.data.source is scenes, which reads no files; found {config[split]!r}. "
                "Add --config.data.source=csv or --config.data.source=array_record."
            )
        return scenes.Scenes(split, config[f"{split}_examples"], image_size, seed)
    if config.source not in SOURCES:
        raise UserError(f"config.data.source: no source {config.source!r}; there are {', '.join(SOURCES)}.")
    named = config[split] or (config.train if config.source == "array_record" else "")
    paths = _paths(named)
    if not paths:
        what = "a CSV file" if config.source == "csv" else "a prepared directory"
        raise UserError(f"config.data.{split}: not given. Name {what}: --config.data.{split}=PATH")
    parts = tuple(_open(path, config, split) for path in paths)
    if split == "train" and config.weights and len(config.weights) != len(parts):
        raise UserError(
            f"config.data.weights: expected a positive number for each of the {len(parts)} datasets of "
            f"config.data.train; found {tuple(config.weights)}."
        )
    if len(parts) == 1:
        return parts[0]
    weights = tuple(config.weights) if split == "train" and config.weights else tuple(map(len, parts))
    return Mixture(parts, tuple(map(float, weights)))


def _paths(named: str) -> list[str]:
    """The paths that a setting names with commas between; what is there under a name with commas is one path."""
    pieces, paths = named.split(","), []
    while pieces:
        for count in range(len(pieces), 0, -1):
            path = ",".join(pieces[:count]).strip()
            if count == 1 or (not is_remote(path) and Path(path).expanduser().exists()):
                paths.append(path)
                del pieces[:count]
                break
    return [path for path in paths if path]


def _open(path: str, config: ConfigDict, split: str) -> Source:
    flag = f"config.data.{split}"
    if config.source == "csv" and is_remote(path):
        raise UserError(f"{flag}: {path}: expected a CSV file on a disk; in object stores are prepared data alone.")
    if config.source == "array_record":
        return array_record.open_split(path, split, flag=flag)
    return csv_file.read(
        Path(path).expanduser(),
        image_key=config.image_key,
        caption_key=config.caption_key,
        delimiter=config.delimiter,
        flag=flag,
    )
