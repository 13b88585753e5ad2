"""A TensorFlow Datasets dataset in ArrayRecord format, with features ``image`` and ``label``."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .. import tfds_folder
from ..errors import UnreadableError, UserError
from ..evaluation_sets.wording import NAMES, ClassPrompts, labelled, read_lines
from ..source import GroundTruth


@dataclasses.dataclass(frozen=True)
class TfdsSplit:
    """Labelled images; item ``i`` is ``{"image": encoded bytes, "text": []}``."""

    records: Sequence[dict]
    truth: GroundTruth

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        """Returns a record; raises UnreadableError if the shard is damaged there."""
        try:
            return {"image": self.records[index]["image"], "text": []}
        except Exception as error:  # the C++ reader and protobuf raise many types on damaged bytes
            raise UnreadableError(f"record {index}: {type(error).__name__}") from error


def matches(path: Path, split: str) -> bool:
    """Whether the path is the folder of a dataset's version."""
    del split
    return (path / "dataset_info.json").is_file()


def open_set(path: Path, split: str, wording: ClassPrompts) -> TfdsSplit:
    """See `evaluation_sets.open_set`; the path is that of a version, such as ``cifar10/3.0.2``."""
    import tensorflow_datasets as tfds  # here, since importing it takes seconds

    if not (path / "dataset_info.json").is_file():
        raise UserError(f"{path}: no dataset_info.json. Use the folder of the version, such as {path}/3.0.2.")
    try:
        builder = tfds_folder.open_builder(path)
        features, splits = builder.info.features, builder.info.splits
        if split not in splits:
            raise UserError(f"{path}: no split {split!r}; choose from {', '.join(splits)}, and set the task's split.")
        if not {"image", "label"} <= features.keys():
            raise UserError(f"{path}: expected the features image and label; found {', '.join(features.keys())}.")
        records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        labels = np.asarray([record["label"] for record in records])
    except UserError:
        raise
    except Exception as error:  # the readers raise many types on damaged files and other formats
        words = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(f"{path}: cannot be opened ({words}). Prepare it again in ArrayRecord format.") from error
    names = list(features["label"].names or ()) or read_lines(path / NAMES)
    return TfdsSplit(records, labelled(wording, names, labels, path, path))
