"""Reads tables in CSV or TSV files, with one set of rules for the whole project.

The first nonblank line has the column names. A field that starts with a quote ends at the next quote before a delimiter
or a line end; doubled quotes inside stand for one (RFC 4180), and it may contain line ends. Any other quote is literal:
an unclosed one, one followed by other text, one whose field would contain delimiters that the row needs, and
one whose field would contain complete rows, as after a stray quote. A row has at most as many fields as there are
column names. So each nonblank line belongs to one row, is part of a quoted field, or counts as unusable; ambiguous
lines are reported with their numbers.
"""

import codecs
import collections
import csv
import dataclasses
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TextIO

from . import files
from .errors import UserError
from .file_names import IMAGE_SUFFIXES
from .files import printable

_LOGGER = logging.getLogger(__name__)
_NOT_UTF_8 = re.compile("[\udc80-\udcff]")  # Python's surrogateescape of invalid bytes
_MAX_LINE_LENGTH = 1 << 26  # characters
_MAX_FIELD_LENGTH = 1 << 17  # characters; as in Python's csv
_MOST_LINES = 1000  # lines of a field
_NAMED = 5  # line numbers in a message
_PANDAS = "python -c \"import pandas; pandas.{0}('{{0}}').to_csv('{{0}}.csv', index=False)\""
_SAVE = 'in the spreadsheet, "Save as", CSV (UTF-8)'
_NOT_TEXT = (
    (b"PAR1", "a Parquet file", _PANDAS.format("read_parquet")),
    (b"ARROW1", "an Arrow file", _PANDAS.format("read_feather")),
    (b"\x1f\x8b", "compressed by gzip", "gunzip --keep {0}"),
    (b"BZh", "compressed by bzip2", "bunzip2 --keep {0}"),
    (b"\xfd7zXZ", "compressed by xz", "unxz --keep {0}"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "unzstd {0}"),
    (b"PK\x03\x04", "an Excel sheet or another zip archive", _SAVE),
    (b"\xd0\xcf\x11\xe0", "an old Excel sheet", _SAVE),
)


@dataclasses.dataclass(frozen=True)
class BadRow:
    """An unusable row: the reason, one of a few, and what was found."""

    reason: str
    found: str


class Doubts:
    """Ambiguous lines of a table, which could be read in two ways."""

    def __init__(self) -> None:
        self._literal: list[int] = []
        self._long: list[int] = []
        self._swallowed = 0

    def add_literal(self, line: int) -> None:
        """Records a line with a field that starts with a literal quote."""
        self._literal.append(line)

    def add_long(self, line: int, count: int) -> None:
        """Records a field of ``count`` lines, from this line on, that contains the delimiter."""
        self._long.append(line)
        self._swallowed += count

    def messages(self, path: Path) -> list[str]:
        """Returns a sentence for each kind of ambiguity."""
        sentences = []
        if self._literal:
            sentences.append(
                f"{printable(path)}: in {len(self._literal)} rows a field starts with a quote that does not enclose "
                f"it; such quotes are read as literal characters (lines {list_lines(self._literal)})"
            )
        if self._long:
            sentences.append(
                f"{printable(path)}: {len(self._long)} quoted fields contain line ends and the delimiter, "
                f"{self._swallowed} lines in total; check for a missing quote (lines {list_lines(self._long)})"
            )
        return sentences


def rows(
    path: Path, columns: Sequence[str], delimiter: str, *, flag: str, doubts: Doubts | None = None
) -> Iterator[tuple[int, tuple[str, ...] | BadRow]]:
    """Yields the line number and the values of the given columns of each row; invalid UTF-8 becomes lone surrogates.

    Args:
      path: the file.
      columns: the columns to return, first that of images, which helps to detect rows inside a stray quote.
      delimiter: one character; empty: see `delimiter_of`.
      flag: the flag that names the file, for errors.
      doubts: collects ambiguous lines; None: they are logged after all rows are read.

    Raises:
      UserError: the file is missing or empty, or lacks a column.
    """
    check(path, flag)
    delimiter = delimiter_of(path, delimiter)
    names = column_names(path, delimiter, flag=flag)
    indices = [_column(names, name, path, delimiter, flag) for name in columns]
    collected = Doubts() if doubts is None else doubts
    with _open(path) as file:
        reader = _Reader(file, delimiter, len(names), indices[0], collected)
        yield from _select_columns(iter(reader), indices, len(names))
    if doubts is None:
        for message in collected.messages(path):
            _LOGGER.warning("%s", message)


def rows_without_names(
    path: Path, indices: Sequence[int], delimiter: str
) -> Iterator[tuple[int, tuple[str, ...] | BadRow]]:
    """Like `rows`, for a file without column names and with literal quotes; columns are given by index."""
    split = _character(delimiter)
    with _open(path) as file:
        split_lines = ((number, text.rstrip("\r\n").split(split)) for number, text in _numbered(file))
        first = next(split_lines, None)
        if first:
            yield from _select_columns(iter([first]), indices, len(first[1]))
            yield from _select_columns(split_lines, indices, len(first[1]))


def check(path: Path, flag: str) -> None:
    """Raises UserError if the file is missing or not text: compressed, of another program, or in UTF-16."""
    if not path.is_file():
        raise UserError(f"{flag}: no file at {path}. Use a CSV or TSV file with a line of column names.")
    with files.open_regular(path) as file:
        start = file.read(8)
    for mark, kind, command in _NOT_TEXT:
        if start.startswith(mark):
            raise UserError(
                f"{flag}: {path} is {kind}; expected a text file, CSV or TSV. Convert it: {command.format(path)}"
            )
    for mark, encoding in ((codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"),
                           (codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16")):  # fmt: skip
        if start.startswith(mark):
            raise UserError(
                f"{flag}: {path} is {encoding} text; expected UTF-8. Convert it: iconv -f {encoding} -t UTF-8 {path} > "
                "utf8.csv"
            )


def delimiter_of(path: Path, given: str = "") -> str:
    r"""Returns the column delimiter.

    It is ``given``, where the two characters ``\t`` mean a tab, or else depends on the suffix: a tab for ``.tsv`` and
    ``.tab``; a comma for ``.csv``, unless the first line has tabs and no comma; for others a tab if the first line has
    one, else a comma.

    Raises:
      UserError: ``given`` is not one character.
    """
    if given:
        return _character(given)
    suffix = path.suffix.lower()
    if suffix in (".tsv", ".tab"):
        return "\t"
    line = first_line(path)
    return "\t" if "\t" in line and (suffix != ".csv" or "," not in line) else ","


def column_names(path: Path, delimiter: str, *, flag: str) -> list[str]:
    """Returns the names in the first nonblank line.

    Raises:
      UserError: all lines are blank.
    """
    line = first_line(path)
    if not line:
        raise UserError(f"{flag}: {path} is empty; expected a line of column names and a row for each image.")
    return _Splitter(delimiter)(line).fields


def caption_columns(names: Sequence[str], key: str) -> tuple[str, ...]:
    """Returns the columns of a key: the column of that name, or else several names separated by commas."""
    return (key,) if key in names else tuple(part.strip() for part in key.split(",") if part.strip()) or (key,)


def first_line(path: Path) -> str:
    """Returns the first nonblank line, or "" if there is none."""
    with _open(path) as file:
        return next((text for _, text in _numbered(file) if text.strip()), "")


class _Split(NamedTuple):
    """A line split into fields, or several lines that a quoted field joins.

    Args:
      fields: the values.
      literal: whether a field starts with a literal quote.
      is_open: whether a quoted field is unclosed.
      whole: whether the fields cover the entire text.
    """

    fields: list[str]
    literal: bool
    is_open: bool
    whole: bool


class _SingleText:
    """An iterator for `csv.reader` that returns one given text."""

    text: str | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.text is None:
            raise StopIteration
        text, self.text = self.text, None
        return text


class _Splitter:
    """Splits lines at a delimiter."""

    def __init__(self, delimiter: str) -> None:
        self.delimiter, mark = delimiter, re.escape(delimiter)
        self._field = re.compile(rf'"((?:[^"]++|"")*+)"(?={mark}|\Z)|([^{mark}\r\n]*+)')
        self._open = re.compile(r'"(?:[^"]++|"")*+\Z')
        self._given = _SingleText()
        self._usual = csv.reader(self._given, delimiter=delimiter, strict=True)

    def __call__(self, text: str) -> _Split:
        text = text.rstrip("\r\n")
        if '"' not in text:
            return _Split(text.split(self.delimiter), literal=False, is_open=False, whole=True)
        self._given.text = text
        try:
            return _Split(next(self._usual), literal=False, is_open=False, whole=True)
        except csv.Error:
            return self._split_closely(text)

    def _split_closely(self, text: str) -> _Split:
        """Splits like Python's csv, more slowly, lines that it rejects for their quotes."""
        fields, position, literal, is_open = [], 0, False, False
        while True:
            match = self._field.match(text, position)
            assert match is not None  # the second alternative matches anything
            quoted, plain = match.groups()
            if quoted is None:
                if plain.startswith('"'):
                    literal, is_open = True, is_open or bool(self._open.match(text, position))
                fields.append(plain)
            else:
                fields.append(quoted.replace('""', '"'))
            position = match.end() + 1
            if position > len(text) or text[position - 1] != self.delimiter:
                return _Split(fields, literal, is_open, whole=position > len(text))


class _Reader:
    """The rows of an open table; see the rules in the module's docstring."""

    def __init__(self, file: TextIO, delimiter: str, width: int, image: int, doubts: Doubts) -> None:
        self._split, self._width, self._image, self._doubts = _Splitter(delimiter), width, image, doubts
        self._lines = _numbered(file)
        self._again: collections.deque[tuple[int, str]] = collections.deque()

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        """Yields the line number and fields of each row below the column names."""
        while (numbered := self._next()) and not numbered[1].strip():
            pass
        while numbered := self._next():
            number, text = numbered
            if '"' not in text:
                yield number, text.rstrip("\r\n").split(self._split.delimiter)
                continue
            split = self._split(text)
            if split.is_open:
                split = self._join(number, text) or split
            fields, literal = split.fields, split.literal
            plain = text.rstrip("\r\n").split(self._split.delimiter)
            if len(fields) != self._width == len(plain):
                fields, literal = plain, True
            if literal:
                self._doubts.add_literal(number)
            yield number, fields

    def _next(self) -> tuple[int, str] | None:
        return self._again.popleft() if self._again else next(self._lines, None)

    def _join(self, number: int, text: str) -> _Split | None:
        """Returns the row whose quoted field starts in this line and ends in a later one, or None."""
        taken, images = [(number, text)], self._images(text)
        while len(taken) < _MOST_LINES and (after := self._next()):
            taken.append(after)
            images += self._images(after[1])
            if len({image for image in images if _suffix(image) in IMAGE_SUFFIXES}) > 1:
                break  # two of the lines are complete rows, so the quote is stray
            if '"' not in after[1]:
                continue
            joined = "".join(line for _, line in taken)
            split = self._split(joined)
            if split.is_open and len(joined) <= _MAX_FIELD_LENGTH:
                continue
            if split.is_open or not split.whole or len(split.fields) != self._width:
                break
            if sum(_alike(image, split.fields[self._image]) for image in images) > 1:
                break
            if any(self._split.delimiter in field and re.search(r"[\r\n]", field) for field in split.fields):
                self._doubts.add_long(number, len(taken))
            return split
        self._again.extendleft(reversed(taken[1:]))
        return None

    def _images(self, text: str) -> list[str]:
        """Returns the image of a line that is a complete row, with its quotes as syntax or as literal characters."""
        readings = self._split(text).fields, text.rstrip("\r\n").split(self._split.delimiter)
        fields = next((fields for fields in readings if len(fields) >= self._width), None)
        image = fields[self._image].strip().strip('"') if fields else ""
        return [image] if image else []


def _alike(one: str, other: str) -> bool:
    """Whether two words look like image names of one kind: by their suffixes, or else by spaces and digits."""
    suffixes = {_suffix(one), _suffix(other)}
    if suffixes != {""}:
        return len(suffixes) == 1 or suffixes <= set(IMAGE_SUFFIXES)
    return not re.search(r"\s", one + other) and bool(re.search(r"\d", one)) == bool(re.search(r"\d", other))


def _suffix(name: str) -> str:
    if name.lower().startswith(("http://", "https://")):
        return "://"
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if re.fullmatch(r"\.\w+", suffix) else ""


def _select_columns(
    split_rows: Iterator[tuple[int, list[str]]], indices: Sequence[int], width: int
) -> Iterator[tuple[int, tuple[str, ...] | BadRow]]:
    """Yields the values of the given columns of each row, or the fault of the row."""
    least = max(indices) + 1
    for line, row in split_rows:
        if len(row) < least:
            yield line, BadRow("too few columns", f"found {len(row)}, expected at least {least}")
        elif len(row) > width:
            yield line, BadRow("too many columns", f"found {len(row)}, expected {width}")
        elif max(map(len, row)) > _MAX_FIELD_LENGTH:
            yield line, BadRow("malformed row", f"a field has more than {_MAX_FIELD_LENGTH:,} characters")
        else:
            yield line, tuple([row[index] for index in indices])


def _numbered(file: TextIO) -> Iterator[tuple[int, str]]:
    """Yields nonblank lines with their numbers from 1 and their line ends; truncates very long lines."""
    number = 0
    while text := file.readline(_MAX_LINE_LENGTH):
        number += 1
        if text.strip(" \r\n"):
            yield number, text
        while len(text) == _MAX_LINE_LENGTH and not text.endswith(("\r", "\n")):
            text = file.readline(_MAX_LINE_LENGTH)


def _open(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _character(delimiter: str) -> str:
    delimiter = "\t" if delimiter == "\\t" else delimiter
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise UserError(f"delimiter: expected one character other than a quote or a line end; found {delimiter!r}.")
    return delimiter


def _column(columns: list[str], key: str, path: Path, delimiter: str, flag: str) -> int:
    if key not in columns:
        shown = ", ".join(repr(column[:40]) for column in columns[:20])
        more = f" and {len(columns) - 20} more" if len(columns) > 20 else ""
        raise UserError(
            f"{flag}: {path} has no column {key!r}; found {shown}{more} when split at {delimiter!r}. Use image_key and "
            "caption_key to set the columns, and delimiter to set the delimiter."
        )
    return columns.index(key)


def list_lines(lines: Sequence[int]) -> str:
    """Returns the first few line numbers as text for a message."""
    shown = ", ".join(map(str, lines[:_NAMED]))
    return shown + (f" and {len(lines) - _NAMED} more" if len(lines) > _NAMED else "")
