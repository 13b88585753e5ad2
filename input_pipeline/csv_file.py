"""Image files on disk, listed with their captions in a CSV or TSV file, as open_clip and the RankCLIP release do."""

import codecs
import csv
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from .errors import UserError

_LOGGER = logging.getLogger(__name__)
_NOT_UTF_8 = range(0xDC80, 0xDD00)  # what Python's surrogateescape makes of such bytes


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
    r"""Reads the list of pairs; relative image paths are looked up beside the file.

    Args:
      path: the file.
      image_key: name of the column of image paths.
      caption_key: name of the column of captions.
      delimiter: one character; the two characters ``\t`` are understood as a tab.
      flag: the setting that named the file, for errors.

    Raises:
      UserError: the file is not there, not text, empty, or lacks a column.
    """
    pairs = []
    incomplete: list[int] = []
    for line, values in rows(path, (image_key, caption_key), delimiter, flag=flag):
        if isinstance(values, BadRow):
            raise UserError(f"{path}, line {line}: {values.reason}: {values.found}.")
        if any(ord(character) in _NOT_UTF_8 for value in values for character in value):
            raise UserError(f"{path}, line {line}: not UTF-8 text.")
        if all(value.strip() for value in values):
            pairs.append(values)
        else:
            incomplete.append(line)
    if incomplete:
        _LOGGER.warning(
            "%s: %d rows without a path or a caption are left out, such as line %d",
            path,
            len(incomplete),
            incomplete[0],
        )
    if not pairs:
        raise UserError(f"{flag}: {path} has no whole rows below its column names, so there is nothing to train on.")
    return CsvFile(tuple(path.parent / image for image, _ in pairs), tuple(caption for _, caption in pairs))


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: one of a few reasons, and what was found."""

    reason: str
    found: str


def rows(
    path: Path, columns: Sequence[str], delimiter: str, *, flag: str
) -> Iterator[tuple[int, tuple[str, ...] | BadRow]]:
    """Line number and the wanted columns' values of each row; bytes that are not UTF-8 become lone surrogates.

    Raises:
      UserError: the file is not there, is empty, or lacks a column.
    """
    if not path.is_file():
        raise UserError(f"{flag}: no file at {path}. Expected a CSV or TSV file with a line of column names.")
    check_encoding(path, flag)
    with _open(path) as file:
        reader = csv.reader(file, delimiter=_character(delimiter))
        try:
            names = next(reader, [])
        except csv.Error as error:
            raise UserError(f"{flag}: {path} is not a text table: {error}.") from error
        yield from _read(reader, [_column(names, name, path, delimiter) for name in columns])


def check_encoding(path: Path, flag: str) -> None:
    """Raises UserError for a table in UTF-16 or UTF-32, which spreadsheets write."""
    with path.open("rb") as file:
        start = file.read(4)
    for mark, encoding in ((codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"),
                           (codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16")):  # fmt: skip
        if start.startswith(mark):
            raise UserError(
                f"{flag}: {path} is {encoding} text; expected UTF-8. Say: iconv -f {encoding} -t UTF-8 {path} > "
                "utf8.csv"
            )


def rows_without_names(
    path: Path, indices: Sequence[int], delimiter: str
) -> Iterator[tuple[int, tuple[str, ...] | BadRow]]:
    """As `rows`, of a file whose first line is a row already and whose quotes mean nothing; columns count from 0."""
    with _open(path) as file:
        yield from _read(csv.reader(file, delimiter=_character(delimiter), quoting=csv.QUOTE_NONE), indices)


def _open(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _character(delimiter: str) -> str:
    delimiter = "\t" if delimiter == "\\t" else delimiter
    if len(delimiter) != 1:
        raise UserError(f"delimiter: expected one character; found {delimiter!r}.")
    return delimiter


def _read(reader: Any, indices: Sequence[int]) -> Iterator[tuple[int, tuple[str, ...] | BadRow]]:
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield line, BadRow("malformed row", str(error))
            continue
        if not row:
            continue
        if len(row) <= max(indices):
            yield line, BadRow("too few columns", f"found {len(row)}, expected at least {max(indices) + 1}")
        else:
            yield line, tuple(row[index] for index in indices)


def _column(columns: list[str], key: str, path: Path, delimiter: str) -> int:
    if not columns:
        raise UserError(f"{path} is empty. Expected a line of column names and a row for each image.")
    if key not in columns:
        shown = ", ".join(repr(column[:40]) for column in columns[:20])
        more = f" and {len(columns) - 20} more" if len(columns) > 20 else ""
        raise UserError(
            f"{path} has no column {key!r}; it has {shown}{more} when split at {delimiter!r}. Name the columns with "
            "image_key and caption_key, the character between them with delimiter."
        )
    return columns.index(key)
