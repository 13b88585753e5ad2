"""Prepared data: sharded ArrayRecord files in TensorFlow Datasets' layout, read without TensorFlow."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from .errors import UnreadableError, UserError
from .object_stores import path_of


@dataclasses.dataclass(frozen=True)
class PreparedSplit:
    """A split of a prepared dataset; item ``i`` is ``{"image": encoded bytes, "text": one or more captions}``."""

    records: Sequence[dict]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict:
        """Raises UnreadableError where the shard is damaged at this record."""
        try:
            record = self.records[index]
            captions = [record["caption"], *record.get("other_captions", ())]
            return {"image": record["image"], "text": [caption.decode("utf8") for caption in captions]}
        except Exception as error:  # whatever the readers' C++ and protobuf parts raise on damaged bytes
            raise UnreadableError(f"record {index}: {type(error).__name__}: {str(error).splitlines()[:1]}") from error


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
    import tensorflow_datasets as tfds  # after the check, since importing it takes seconds

    try:
        builder = tfds.builder_from_directory(folder)
        if split not in builder.info.splits:
            raise UserError(f"{flag}: {path} has no split {split!r}. Add it with: {command}")
        return PreparedSplit(builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()}))
    except UserError:
        raise
    except Exception as error:  # whatever the reader's parts raise on damaged files, or on another format's
        words = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(
            f"{flag}: the dataset at {path} cannot be opened ({words}). Prepare it again with: {command}"
        ) from error
