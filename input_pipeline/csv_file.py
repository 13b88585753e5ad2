"""Image files on disk, listed with their captions in a CSV or TSV file: the RankCLIP release's format."""

import csv
import dataclasses
from pathlib import Path

from input_pipeline.errors import UserError


@dataclasses.dataclass(frozen=True)
class CsvFile:
    """Pairs of an image path and a caption; item ``i`` is ``{"image": Path, "text": str}``."""

    paths: tuple[Path, ...]
    captions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.paths[index], "text": self.captions[index]}


def read(path: Path, *, image_key: str, caption_key: str, delimiter: str, flag: str) -> CsvFile:
    """Reads the list of pairs; relative image paths are looked up beside the file.

    Args:
      image_key, caption_key: names of the columns.
      delimiter: one character; the two characters ``\\t`` are understood as a tab.
      flag: the setting that named the file, for errors.

    Raises:
      UserError: the file is not there, not text, empty, or lacks a column.
    """
    if not path.is_file():
        raise UserError(f"{flag}: no file at {path}. Expected a CSV or TSV file with a line of column names.")
    delimiter = "\t" if delimiter == "\\t" else delimiter
    if len(delimiter) != 1:
        raise UserError(f"config.data.delimiter: expected one character; found {delimiter!r}.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter=delimiter)
            columns = next(rows, [])
            indices = [_column(columns, key, path, delimiter) for key in (image_key, caption_key)]
            pairs = [_pair(row, indices, path, rows.line_num) for row in rows if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{flag}: {path} is not a UTF-8 text table: {error}.") from error
    if not pairs:
        raise UserError(f"{flag}: {path} has no rows below its column names, so there is nothing to train on.")
    return CsvFile(tuple(path.parent / image for image, _ in pairs), tuple(caption for _, caption in pairs))


def _column(columns: list[str], key: str, path: Path, delimiter: str) -> int:
    if not columns:
        raise UserError(f"{path} is empty. Expected a line of column names and a row for each image.")
    if key not in columns:
        raise UserError(
            f"{path} has no column {key!r}; it has {', '.join(map(repr, columns))} when split at {delimiter!r}. "
            "Name the columns with --config.data.image_key and --config.data.caption_key, "
            "the character between them with --config.data.delimiter."
        )
    return columns.index(key)


def _pair(row: list[str], indices: list[int], path: Path, line: int) -> list[str]:
    if len(row) <= max(indices):
        raise UserError(f"{path}, line {line}: found {len(row)} columns, expected at least {max(indices) + 1}.")
    return [row[index] for index in indices]
