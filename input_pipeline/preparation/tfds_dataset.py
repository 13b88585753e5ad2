"""A dataset prepared by TensorFlow Datasets in ArrayRecord format."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import tfds_folder
from ..errors import UserError
from ..preparation.pairs import Pair, Skip, clean_captions


@dataclasses.dataclass(frozen=True)
class TfdsDataset:
    """One split of a TensorFlow Datasets directory.

    Args:
      path: the folder of the dataset's version.
      split: the split to read.
      image_key: the feature of images.
      caption_key: the feature of captions, one or a sequence; ``a/b`` is feature ``b`` within ``a``.
      shard_size: number of records per job.
    """

    path: Path
    split: str
    image_key: str
    caption_key: str
    shard_size: int

    def describe(self) -> dict[str, Any]:
        """See `PairSource.describe`."""
        return {"dataset": self.path.name, "split": self.split, "records": len(self._records)}

    def job_count(self) -> int:
        """See `PairSource.job_count`."""
        return -(-len(self._records) // self.shard_size)

    def jobs(self) -> Iterator[range]:
        """See `PairSource.jobs`."""
        records = self._records
        for start in range(0, len(records), self.shard_size):
            yield range(start, min(start + self.shard_size, len(records)))

    def read(self, job: range) -> Iterator[Pair | Skip]:
        """See `PairSource.read`."""
        for index in job:
            key = f"{self.split}/{index}"
            try:
                record = self._records[index]
            except Exception as error:  # the C++ reader raises many types on damaged bytes
                yield Skip("damaged record", f"{key}: {error}")
                continue
            yield self._pair(key, record)

    def _pair(self, key: str, record: dict) -> Pair | Skip:
        values: Any = record
        for name in self.caption_key.split("/"):
            if not isinstance(values, dict) or name not in values:
                raise UserError(
                    f"--caption_key: no feature {self.caption_key!r} in {self.path}; choose from {_names(record)}."
                )
            values = values[name]
        if self.image_key not in record:
            raise UserError(f"--image_key: no feature {self.image_key!r} in {self.path}; choose from {_names(record)}.")
        texts = [values] if isinstance(values, bytes | str) else list(values)
        captions = clean_captions((text if isinstance(text, bytes) else str(text) for text in texts), key)
        return captions if isinstance(captions, Skip) else Pair(key, record[self.image_key], captions)

    @property
    def _records(self) -> Any:
        return _open(self.path, self.split, self.image_key)


@functools.lru_cache(maxsize=1)
def _open(path: Path, split: str, image_key: str) -> Any:
    """Opens the split's records, once per process."""
    try:
        builder = tfds_folder.open_builder(path)
    except FileNotFoundError as error:
        raise UserError(f"--input: no prepared TFDS dataset at {path}: {error}") from error
    except UserError as error:
        raise UserError(f"--input: {error}") from error
    except Exception as error:  # its parser raises many types on damaged descriptions
        words = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(f"--input: the TFDS dataset at {path} cannot be opened ({words}). Prepare it again.") from error
    if split not in builder.info.splits:
        raise UserError(f"--input: {path} has no split {split!r}; choose from {', '.join(builder.info.splits)}.")
    if image_key not in builder.info.features:
        raise UserError(
            f"--image_key: no feature {image_key!r} in {path}; choose from {_names(builder.info.features)}."
        )
    import tensorflow_datasets as tfds

    try:
        return builder.as_data_source(split, decoders={image_key: tfds.decode.SkipDecoding()})
    except NotImplementedError as error:
        raise UserError(
            f"--input: {path} is not in ArrayRecord format, the only one that is read without TensorFlow. Prepare "
            "it again with file_format='array_record'."
        ) from error


def _names(features: Any) -> str:
    return ", ".join(sorted(features))
