"""Sources, decoding, tokenizer and the loader: everything up to a batch of uint8 pixels and token ids."""

from pathlib import Path

from ml_collections import ConfigDict

from input_pipeline import array_record, csv_file, scenes
from input_pipeline.errors import UserError
from input_pipeline.loader import Source

SOURCES = ("scenes", "csv", "array_record")


def has_validation(config: ConfigDict) -> bool:
    """Whether ``config.data`` describes a validation split."""
    return config.source != "csv" or bool(config.validation)


def open_source(config: ConfigDict, split: str, *, image_size: int, seed: int) -> Source:
    """Opens the ``"train"`` or ``"validation"`` split that ``config.data`` describes.

    Raises:
      UserError: the data are not there or not what the settings say.
    """
    path = config[split]
    match config.source:
        case "scenes":
            return scenes.Scenes(split, config[f"{split}_examples"], image_size, seed)
        case "csv":
            if not path:
                raise UserError(f"config.data.{split}: not given. Name a CSV file: --config.data.{split}=FILE")
            return csv_file.read(
                Path(path),
                image_key=config.image_key,
                caption_key=config.caption_key,
                delimiter=config.delimiter,
                flag=f"config.data.{split}",
            )
        case "array_record":
            return array_record.open_split(Path(path or config.train), split, flag=f"config.data.{split}")
        case _:
            raise UserError(f"config.data.source: no source {config.source!r}; there are {', '.join(SOURCES)}.")
