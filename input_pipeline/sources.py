"""The registry of data sources, and opening the datasets that ``config.data`` describes."""

from pathlib import Path

from ml_collections import ConfigDict

from .array_record import ArrayRecordSource
from .csv_file import CsvSource
from .errors import UserError
from .object_stores import is_remote
from .registry import Registry
from .scenes import SceneSource
from .source import DataSource, Mixture, Source

SOURCES: Registry[DataSource] = Registry(
    "data.source", DataSource, {"scenes": SceneSource, "csv": CsvSource, "array_record": ArrayRecordSource}
)


def has_validation(config: ConfigDict) -> bool:
    """Whether ``config.data`` describes a validation split."""
    return _chosen(config).has_validation(config.validation)


def open_source(config: ConfigDict, split: str, *, image_size: int, seed: int) -> Source:
    """Opens the ``"train"`` or ``"validation"`` split that ``config.data`` describes.

    Raises:
      UserError: the data are missing, or do not match the settings.
    """
    source = _chosen(config)
    paths = _paths(config[split] or (config.train if source.holds_splits else ""))
    for path in paths:
        if is_remote(path) and not source.in_object_stores:
            raise UserError(
                f"config.data.{split}: {path}: expected {source.expects} on a disk. Use a local path; only prepared "
                "data can be in an object store."
            )
    parts = tuple(source.open(path, split, image_size=image_size, seed=seed) for path in paths or [""])
    if split == "train" and config.weights and len(config.weights) != len(parts):
        raise UserError(
            f"config.data.weights: expected a positive number for each of the {len(parts)} datasets of "
            f"config.data.train; found {tuple(config.weights)}."
        )
    if len(parts) == 1:
        return parts[0]
    weights = tuple(config.weights) if split == "train" and config.weights else tuple(map(len, parts))
    return Mixture(parts, tuple(map(float, weights)))


def _chosen(config: ConfigDict) -> DataSource:
    return SOURCES[config.source].from_config(config)


def _paths(named: str) -> list[str]:
    """Splits a setting into its paths at commas; an existing path may itself contain commas."""
    pieces, paths = named.split(","), []
    while pieces:
        for count in range(len(pieces), 0, -1):
            path = ",".join(pieces[:count]).strip()
            if count == 1 or (not is_remote(path) and Path(path).expanduser().exists()):
                paths.append(path)
                del pieces[:count]
                break
    return [path for path in paths if path]
