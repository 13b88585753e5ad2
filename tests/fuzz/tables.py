"""Tables of images and captions, written properly and not: each line is a pair or is counted.

python -m tests.fuzz.tables [--count 1000] [--seed 0] [--first 0]

Half of them are written by Python's csv, and come back value by value, whatever the captions hold. The other half are
joined with the delimiter and no more, as people and scripts do, so that quotes are wherever a caption has them; there
each line becomes a pair or one thing that is counted, in training and in preparation alike.
"""

import csv
import io
import logging
import random
import string
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from rankclip_jax.input_pipeline import csv_file, tables
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.preparation.pairs import Pair
from rankclip_jax.input_pipeline.preparation.table import Table
from tests import fuzz

_WORDS = [
    "cat",
    "dog",
    "a",
    "naïve",
    "猫",
    "3.5",
    "x.y",
    '"',
    '""',
    "'",
    '5"',
    '"quoted"',
    "\\",
    "\0",
    "&",
    "=",
    "\u2028",
]
_NAMES = [*(f"{number}.jpg" for number in range(8)), "b.PNG", "with space.jpg", "x,y.jpeg", "deep.er/c.webp"]
_BOM = "\ufeff"


def check(draw: random.Random) -> None:
    """Writes one table and reads it as training and as preparation do."""
    with tempfile.TemporaryDirectory() as folder:
        (_check_written if draw.random() < 0.5 else _check_joined)(draw, Path(folder))


def _check_written(draw: random.Random, folder: Path) -> None:
    """What `csv.writer` wrote, blank lines between the rows, comes back as it was."""
    delimiter, end = draw.choice(",\t;|"), draw.choice(["\n", "\r\n", "\r"])
    names, image, caption = _columns(draw)
    rows = []
    for _ in range(draw.randint(1, 20)):
        row = [_text(draw, [delimiter, "\n", "\r\n", " "]) for _ in names]
        row[image], row[caption] = draw.choice(_NAMES), row[caption] or "x"
        rows.append(row)
    file = io.StringIO()
    # With another line end than the captions have, Python before 3.13 would not put these in quotes.
    quoting = csv.QUOTE_ALL if end == "\r" else draw.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting)
    file.write(end * draw.choice([0, 0, 1, 3]))
    for row in [names, *rows]:
        writer.writerow(row)
        file.write(end * draw.choice([0, 0, 0, 1]))
    path = _write(draw, folder, file.getvalue().encode())
    found = [values for _, values in tables.rows(path, (names[image], names[caption]), delimiter, flag="x")]
    assert found == [(row[image], row[caption]) for row in rows], (found, rows)


def _check_joined(draw: random.Random, folder: Path) -> None:
    """Each line that somebody joined with the delimiter is a pair or is counted, whatever its quotes."""
    delimiter, end = draw.choice(",\t;|"), draw.choice(["\n", "\r\n", "\r"])
    names, image, caption = _columns(draw)
    used = [name for name in _NAMES if delimiter not in name]
    lines, expected = [delimiter.join(names).encode()], []
    for _ in range(draw.randint(1, 20)):
        row = [_text(draw, [" "]).replace(delimiter, " ") for _ in names]
        row[image], row[caption] = draw.choice(used), row[caption] if row[caption].strip('\0 \u2028"') else "x"
        kind = draw.choices(["pair", "no caption", "few", "surplus", "encoding", "blank"], [20, 1, 1, 1, 1, 1])[0]
        if kind == "no caption":
            row[caption] = " "
        if kind == "few":
            row = row[: max(image, caption)]
        if kind == "surplus":
            row.append(_text(draw, [" "]).replace(delimiter, " "))
        if kind in ("few", "surplus"):  # with quotes nobody could say whether they make fewer fields of these
            row = [cell.replace('"', "") for cell in row]
        cells = [cell.encode() for cell in row]
        if kind == "encoding":
            cells[caption] = b"caf\xe9"
        content = delimiter.encode().join(cells)
        if kind == "blank" or not content.strip():
            content, kind = b" " * draw.randint(0, 2), "blank"
        lines.append(content)
        if kind != "blank":
            expected.append(
                (len(lines), kind, row[image] if kind == "pair" else "", row[caption] if kind == "pair" else "")
            )
    path = _write(draw, folder, end.encode().join(lines) + draw.choice([b"", end.encode()]))
    keys = names[image], names[caption]
    _check_lines(list(tables.rows(path, keys, delimiter, flag="x")), expected)
    _check_training(path, keys, delimiter, expected)
    _check_preparation(path, keys, delimiter, expected)


def _check_lines(found: list, expected: list) -> None:
    """One answer for each line, in order, and the right one."""
    assert [line for line, _ in found] == [line for line, *_ in expected], (found, expected)
    for (_, values), (_, kind, image, text) in zip(found, expected, strict=True):
        assert isinstance(values, tables.BadRow) == (kind in ("few", "surplus")), (values, kind)
        if kind == "pair":
            # A caption that is wholly in quotes loses them, as from any reader of such tables.
            bare = text[1:-1].replace('""', '"') if text[:1] == text[-1:] == '"' else text
            assert values in ((image, text), (image, bare)), (values, image, text)


def _check_training(path: Path, keys: tuple[str, str], delimiter: str, expected: list) -> None:
    kinds = Counter(kind for _, kind, *_ in expected)
    bad = [line for line, kind, *_ in expected if kind in ("few", "surplus", "encoding")]
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(csv_file.__name__)
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)  # whatever the whole package's is
    settings = {"image_key": keys[0], "caption_key": keys[1], "delimiter": delimiter, "flag": "x"}
    try:
        if bad or not kinds["pair"]:
            with pytest.raises(UserError, match=rf"line {bad[0]}\b" if bad else "rows with a path and a caption below"):
                csv_file.read(path, **settings)
            return
        assert len(csv_file.read(path, **settings)) == kinds["pair"]
        without = f"{kinds['no caption']} rows without a path or a caption"
        assert any(without in line for line in said) == bool(kinds["no caption"]), said
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


def _check_preparation(path: Path, keys: tuple[str, str], delimiter: str, expected: list) -> None:
    for name in _NAMES:
        (path.parent / name).parent.mkdir(exist_ok=True)
        (path.parent / name).write_bytes(b"an image")
    table = Table(path, *keys, delimiter, shard_size=7)
    items = [item for job in table.jobs() for item in table.read(job)]
    assert len(items) == len(expected)
    pairs = [isinstance(item, Pair) for item in items]
    # A caption of nothing but white space and NUL is none, once it is cleaned.
    assert sum(pairs) <= sum(kind == "pair" for _, kind, *_ in expected)
    for item, (_, kind, _, text) in zip(items, expected, strict=True):
        assert isinstance(item, Pair) or kind != "pair" or not text.strip('" \0\u2028'), (item, text)


def _columns(draw: random.Random) -> tuple[list[str], int, int]:
    """Names of two to five columns, and which of them are images and captions."""
    names = draw.sample(["filepath", "title", "split", "width", "url"], draw.randint(2, 5))
    image, caption = draw.sample(range(len(names)), 2)
    return names, image, caption


def _text(draw: random.Random, between: list[str]) -> str:
    words = [
        draw.choice(_WORDS) if draw.random() < 0.7 else draw.choice(string.ascii_letters)
        for _ in range(draw.randint(0, 6))
    ]
    return "".join(f"{word}{draw.choice(between)}" for word in words).removesuffix(" ")


def _write(draw: random.Random, folder: Path, content: bytes) -> Path:
    path = folder / draw.choice(["t.csv", "t.tsv", "t.txt", "t"])
    path.write_bytes((_BOM.encode() if draw.random() < 0.3 else b"") + content)
    return path


if __name__ == "__main__":
    with fuzz.quiet():
        sys.exit(fuzz.main(check))
