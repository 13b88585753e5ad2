"""Prepared data: sharded ArrayRecord files in TensorFlow Datasets' layout, read without TensorFlow."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from input_pipeline.errors import UserError


@dataclasses.dataclass(frozen=True)
class PreparedSplit:
    """A split of a prepared dataset; item ``i`` is ``{"image": encoded bytes, "text": str}``."""

    records: Sequence[dict]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        record = self.records[index]
        return {"image": record["image"], "text": record["caption"].decode("utf8")}


def open_split(path: Path, split: str, *, flag: str) -> PreparedSplit:
    """Opens a split of a directory that ``python -m input_pipeline.prepare`` wrote.

    Args:
      path: the directory.
      split: ``"train"`` or ``"validation"``.
      flag: the setting that named the directory, for errors.

    Raises:
      UserError: there is no such dataset, or it lacks the split.
    """
    command = f"python -m input_pipeline.prepare --source csv --input LIST.csv --split {split} --output {path}"
    if not (path / "dataset_info.json").is_file():
        raise UserError(
            f"{flag}: no dataset at {path}. Prepare it with: {command} (--source also reads tsv, webdataset, folder, "
            f"tfds and urls), or point elsewhere: --{flag}=DIR"
        )
    import tensorflow_datasets as tfds  # after the check, since importing it takes seconds

    builder = tfds.builder_from_directory(path)
    if split not in builder.info.splits:
        raise UserError(f"{flag}: {path} has no split {split!r}. Add it with: {command}")
    return PreparedSplit(builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()}))
