"""Tables in CSV or TSV files, read one way everywhere in the project.

The first line that is not blank has the column names. A field that begins with a quote ends at the next quote before a
delimiter or a line end; doubled quotes inside stand for one (RFC 4180), and it may hold line ends. A quote that
encloses no field in this way is a character: one without an end, one followed by other text, one whose field would
swallow delimiters that the row needs, and one whose field would swallow lines that are rows by themselves, which is
what a stray quote does. A row has no more fields than there are column names. So each line that is not blank belongs to
one row, is part of a field in quotes, or is counted as unusable; where that is doubtful, line numbers are given.
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
from .files import printable

_LOGGER = logging.getLogger(__name__)
_NOT_UTF_8 = re.compile("[\udc80-\udcff]")  # what Python's surrogateescape makes of such bytes
_LONGEST_LINE = 1 << 26  # characters
_LONGEST_FIELD = 1 << 17  # characters; as Python's csv
_MOST_LINES = 1000  # of a field
_NAMED = 5  # lines in a message
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
    """A row that cannot be used: one of a few reasons, and what was found."""

    reason: str
    found: str


class Doubts:
    """Lines of a table that were read in one of two ways that they allow."""

    def __init__(self) -> None:
        self._literal: list[int] = []
        self._long: list[int] = []
        self._swallowed = 0

    def add_literal(self, line: int) -> None:
        """Of this line, a quote that begins a field is a character."""
        self._literal.append(line)

    def add_long(self, line: int, count: int) -> None:
        """From this line on, a field of so many lines holds the delimiter."""
        self._long.append(line)
        self._swallowed += count

    def messages(self, path: Path) -> list[str]:
        """A sentence for each kind of doubt that there is."""
        said = []
        if self._literal:
            said.append(
                f"{printable(path)}: in {len(self._literal)} rows a field begins with a quote that does not enclose "
                f"it; such quotes are read as characters (lines {list_lines(self._literal)})"
            )
        if self._long:
            said.append(
                f"{printable(path)}: {len(self._long)} fields in quotes hold line ends and the delimiter, "
                f"{self._swallowed} lines in all; is a quote missing there? (lines {list_lines(self._long)})"
            )
        return said


def rows(
    path: Path, columns: Sequence[str], delimiter: str, *, flag: str, doubts: Doubts | None = None
) -> Iterator[tuple[int, tuple[str, ...] | BadRow]]:
    """Line number and the wanted columns' values of each row; bytes that are not UTF-8 become lone surrogates.

    Args:
      path: the file.
      columns: names of the wanted ones; first that of images, by which rows that a stray quote swallows are known.
      delimiter: one character; empty: see `delimiter_of`.
      flag: what named the file, for errors.
      doubts: counts doubtful lines; None: they are logged when all rows are read.

    Raises:
      UserError: the file is not there, is empty, or lacks a column.
    """
    check(path, flag)
    delimiter = delimiter_of(path, delimiter)
    names = column_names(path, delimiter, flag=flag)
    indices = [_column(names, name, path, delimiter, flag) for name in columns]
    own = Doubts() if doubts is None else doubts
    with _open(path) as file:
        reader = _Reader(file, delimiter, len(names), indices[0], own)
        yield from _wanted(iter(reader), indices, len(names))
    if doubts is None:
        for message in own.messages(path):
            _LOGGER.warning("%s", message)


def rows_without_names(
    path: Path, indices: Sequence[int], delimiter: str
) -> Iterator[tuple[int, tuple[str, ...] | BadRow]]:
    """As `rows`, of a file whose first line is a row already and whose quotes mean nothing; columns count from 0."""
    split = _character(delimiter)
    with _open(path) as file:
        found = ((number, text.rstrip("\r\n").split(split)) for number, text in _numbered(file))
        first = next(found, None)
        if first:
            yield from _wanted(iter([first]), indices, len(first[1]))
            yield from _wanted(found, indices, len(first[1]))


def check(path: Path, flag: str) -> None:
    """Raises UserError where there is no file, or one that is no text: compressed, of another program, or in UTF-16."""
    if not path.is_file():
        raise UserError(f"{flag}: no file at {path}. Expected a CSV or TSV file with a line of column names.")
    with files.open_regular(path) as file:
        start = file.read(8)
    for mark, kind, command in _NOT_TEXT:
        if start.startswith(mark):
            raise UserError(
                f"{flag}: {path} is {kind}; expected a CSV or TSV file, which is text. Make one of it: "
                f"{command.format(path)}"
            )
    for mark, encoding in ((codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"),
                           (codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16")):  # fmt: skip
        if start.startswith(mark):
            raise UserError(
                f"{flag}: {path} is {encoding} text; expected UTF-8. Convert it: iconv -f {encoding} -t UTF-8 {path} > "
                "utf8.csv"
            )


def delimiter_of(path: Path, given: str = "") -> str:
    r"""The character between columns.

    It is the one that is given (the two characters ``\t`` mean a tab), or follows from the suffix: a tab for ``.tsv``
    and ``.tab``, a comma for ``.csv`` unless the first line has tabs and no comma, and for others a tab if the first
    line has one, else a comma.

    Raises:
      UserError: what is given is not one character.
    """
    if given:
        return _character(given)
    suffix = path.suffix.lower()
    if suffix in (".tsv", ".tab"):
        return "\t"
    line = first_line(path)
    return "\t" if "\t" in line and (suffix != ".csv" or "," not in line) else ","


def column_names(path: Path, delimiter: str, *, flag: str) -> list[str]:
    """The names in the first line that is not blank.

    Raises:
      UserError: all lines are blank.
    """
    line = first_line(path)
    if not line:
        raise UserError(f"{flag}: {path} is empty. Expected a line of column names and a row for each image.")
    return _Splitter(delimiter)(line).fields


def caption_columns(names: Sequence[str], key: str) -> tuple[str, ...]:
    """The columns that a key names: the one of that name, or else several with commas between."""
    return (key,) if key in names else tuple(part.strip() for part in key.split(",") if part.strip()) or (key,)


def first_line(path: Path) -> str:
    """The first line with more than white space; empty: there is none."""
    with _open(path) as file:
        return next((text for _, text in _numbered(file) if text.strip()), "")


class _Split(NamedTuple):
    """What a line, or several that one field joins, consists of.

    Args:
      fields: the values.
      literal: a field begins with a quote that does not enclose it.
      is_open: such a field has no end.
      whole: the fields are all that there is.
    """

    fields: list[str]
    literal: bool
    is_open: bool
    whole: bool


class _Given:
    """What `csv.reader` reads: the one text that was put here."""

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
        self._given = _Given()
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
        """The same as Python's csv, slowly, where that one finds quotes amiss."""
        fields, place, literal, is_open = [], 0, False, False
        while True:
            match = self._field.match(text, place)
            assert match is not None  # the second form matches anything
            quoted, plain = match.groups()
            if quoted is None:
                if plain.startswith('"'):
                    literal, is_open = True, is_open or bool(self._open.match(text, place))
                fields.append(plain)
            else:
                fields.append(quoted.replace('""', '"'))
            place = match.end() + 1
            if place > len(text) or text[place - 1] != self.delimiter:
                return _Split(fields, literal, is_open, whole=place > len(text))


class _Reader:
    """The rows of an open table; see the rule at the head of this file."""

    def __init__(self, file: TextIO, delimiter: str, width: int, image: int, doubts: Doubts) -> None:
        self._split, self._width, self._image, self._doubts = _Splitter(delimiter), width, image, doubts
        self._lines = _numbered(file)
        self._again: collections.deque[tuple[int, str]] = collections.deque()

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        """Line number and fields of each row below the column names."""
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
        """The row whose quoted field begins in this line and ends in another; None: there is none such."""
        taken, images = [(number, text)], self._images(text)
        while len(taken) < _MOST_LINES and (after := self._next()):
            taken.append(after)
            images += self._images(after[1])
            if len({image for image in images if _suffix(image) in _IMAGE_SUFFIXES}) > 1:
                break  # two lines are rows by themselves, so this does not go on
            if '"' not in after[1]:
                continue
            joined = "".join(line for _, line in taken)
            split = self._split(joined)
            if split.is_open and len(joined) <= _LONGEST_FIELD:
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
        """The image that a line names if it is a row by itself, with its quotes as they mean or as characters."""
        ways = self._split(text).fields, text.rstrip("\r\n").split(self._split.delimiter)
        fields = next((fields for fields in ways if len(fields) >= self._width), None)
        image = fields[self._image].strip().strip('"') if fields else ""
        return [image] if image else []


def _alike(one: str, other: str) -> bool:
    """Whether two words are both names of images, as far as can be told: with one suffix, or in other ways alike."""
    suffixes = {_suffix(one), _suffix(other)}
    if suffixes != {""}:
        return len(suffixes) == 1 or suffixes <= _IMAGE_SUFFIXES
    return not re.search(r"\s", one + other) and bool(re.search(r"\d", one)) == bool(re.search(r"\d", other))


_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}


def _suffix(name: str) -> str:
    if name.lower().startswith(("http://", "https://")):
        return "://"
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if re.fullmatch(r"\.\w+", suffix) else ""


def _wanted(
    found: Iterator[tuple[int, list[str]]], indices: Sequence[int], width: int
) -> Iterator[tuple[int, tuple[str, ...] | BadRow]]:
    """The values of the wanted columns, or what is wrong with a row."""
    least = max(indices) + 1
    for line, row in found:
        if len(row) < least:
            yield line, BadRow("too few columns", f"found {len(row)}, expected at least {least}")
        elif len(row) > width:
            yield line, BadRow("too many columns", f"found {len(row)}, expected {width}")
        elif max(map(len, row)) > _LONGEST_FIELD:
            yield line, BadRow("malformed row", f"a field has more than {_LONGEST_FIELD:,} characters")
        else:
            yield line, tuple([row[index] for index in indices])


def _numbered(file: TextIO) -> Iterator[tuple[int, str]]:
    """The lines that hold more than spaces, with their ends, and their numbers from 1; one that never ends is cut."""
    number = 0
    while text := file.readline(_LONGEST_LINE):
        number += 1
        if text.strip(" \r\n"):
            yield number, text
        while len(text) == _LONGEST_LINE and not text.endswith(("\r", "\n")):
            text = file.readline(_LONGEST_LINE)


def _open(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _character(delimiter: str) -> str:
    delimiter = "\t" if delimiter == "\\t" else delimiter
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise UserError(f"delimiter: expected one character, no quote and no line end; found {delimiter!r}.")
    return delimiter


def _column(columns: list[str], key: str, path: Path, delimiter: str, flag: str) -> int:
    if key not in columns:
        shown = ", ".join(repr(column[:40]) for column in columns[:20])
        more = f" and {len(columns) - 20} more" if len(columns) > 20 else ""
        raise UserError(
            f"{flag}: {path} has no column {key!r}; it has {shown}{more} when split at {delimiter!r}. Name the columns "
            "with image_key and caption_key, the character between them with delimiter."
        )
    return columns.index(key)


def list_lines(lines: Sequence[int]) -> str:
    """Line numbers for a message, the first few of them."""
    shown = ", ".join(map(str, lines[:_NAMED]))
    return shown + (f" and {len(lines) - _NAMED} more" if len(lines) > _NAMED else "")
