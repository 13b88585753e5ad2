r"""Image files on disk, listed with their captions in a CSV or TSV file, as open_clip and the RankCLIP release do."""

import dataclasses
import hashlib
import logging
import re
from pathlib import Path

from .errors import UserError
from .files import printable
from .preparation.pairs import clean_captions
from .setting import setting
from .source import DataSource
from .tables import BadRow, caption_columns, check, column_names, delimiter_of, list_lines, rows

_LOGGER = logging.getLogger(__name__)
_NOT_UTF_8 = re.compile("[\udc80-\udcff]")  # what Python's surrogateescape makes of such bytes
_SIZES = 256  # image files whose sizes tell a dataset from a changed one, at most


@dataclasses.dataclass(frozen=True)
class CsvSource(DataSource):
    """Image files named by a CSV or TSV file."""

    expects = "a CSV file"

    image_key: str = setting("filepath", "csv: the column of image paths (open_clip's name; the release's is image)")
    caption_key: str = setting("title", "csv: the column of captions (open_clip's name), or several: short,long")
    delimiter: str = setting("", "csv: between columns; empty: by the suffix, a comma for .csv and a tab for .tsv")

    def __post_init__(self) -> None:
        if len(self.delimiter.replace("\\t", "\t")) > 1:
            raise UserError(f"config.data.delimiter: expected one character, or none; found {self.delimiter!r}.")

    def open(self, path: str, split: str, *, image_size: int, seed: int) -> "CsvFile":
        """The pairs that a file lists."""
        del image_size, seed
        if not path:
            raise UserError(f"config.data.{split}: not set. Use --config.data.{split}=PATH, {self.expects}.")
        return read(
            Path(path).expanduser(),
            image_key=self.image_key,
            caption_key=self.caption_key,
            delimiter=self.delimiter,
            flag=f"config.data.{split}",
        )


@dataclasses.dataclass(frozen=True)
class CsvFile:
    """Pairs of an image path and a caption, or several; item ``i`` is ``{"image": Path, "text": str or tuple of str}``.

    Args:
      paths: of the images.
      captions: of each image.
      folder: where relative paths begin.
    """

    paths: tuple[Path, ...]
    captions: tuple[str | tuple[str, ...], ...]
    folder: Path = Path()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.paths[index], "text": self.captions[index]}

    def identity(self) -> dict[str, object]:
        """See `source.identity_of`: digests of all captions and image names, and of some files' sizes."""
        names, captions = hashlib.sha256(), hashlib.sha256()
        prefix = f"{self.folder}/"
        for path, caption in zip(self.paths, self.captions, strict=True):
            names.update(f"{str(path).removeprefix(prefix)}\n".encode("utf8", "surrogateescape"))
            captions.update(f"{caption!r}\n".encode("utf8", "surrogatepass"))
        sizes = [_size(path) for path in self.paths[:: -(-len(self) // _SIZES)]]
        return {
            "records": len(self),
            "image names": names.hexdigest(),
            "captions": captions.hexdigest(),
            "image sizes": hashlib.sha256(repr(sizes).encode()).hexdigest(),
        }


def read(path: Path, *, image_key: str, caption_key: str, delimiter: str, flag: str) -> CsvFile:
    r"""Reads the list of pairs; relative image paths are looked up beside the file.

    Args:
      path: the file.
      image_key: name of the column of image paths.
      caption_key: name of the column of captions, or several with commas between; empty ones of several are left out.
      delimiter: one character; the two characters ``\t`` are understood as a tab; empty: see `delimiter_of`.
      flag: the setting that named the file, for errors.

    Raises:
      UserError: the file is not there, not text, empty, or lacks a column; or rows cannot be used.
    """
    check(path, flag)
    delimiter = delimiter_of(path, delimiter)
    keys = caption_columns(column_names(path, delimiter, flag=flag), caption_key)
    pairs = []
    incomplete: list[int] = []
    bad: dict[str, list[tuple[int, str]]] = {}
    for line, values in rows(path, (image_key, *keys), delimiter, flag=flag):
        if isinstance(values, BadRow):
            bad.setdefault(values.reason, []).append((line, values.found))
            continue
        if any(map(_NOT_UTF_8.search, values)):
            bad.setdefault("not UTF-8 text", []).append((line, "convert the file, for example with iconv"))
            continue
        image, *texts = values
        captions = clean_captions(texts, printable(path))
        if image.strip() and isinstance(captions, tuple):
            pairs.append((image, captions[0] if len(keys) == 1 else captions))
        else:
            incomplete.append(line)
    if bad:
        raise UserError(_explain(path, delimiter, bad, flag))
    if incomplete:
        _LOGGER.warning(
            "%s: %d rows without a path or a caption are left out, such as line %d",
            printable(path),
            len(incomplete),
            incomplete[0],
        )
    if not pairs:
        raise UserError(f"{flag}: {path} has no whole rows below its column names, so there is nothing to train on.")
    folder = path.parent
    return CsvFile(tuple(folder / image for image, _ in pairs), tuple(texts for _, texts in pairs), folder)


def _explain(path: Path, delimiter: str, bad: dict[str, list[tuple[int, str]]], flag: str) -> str:
    """What is wrong with the rows that cannot be used, by reason, with line numbers."""
    reasons = []
    for reason, found in bad.items():
        line, first = found[0]
        more = f"; also lines {list_lines([line for line, _ in found[1:]])}" if len(found) > 1 else ""
        reasons.append(f"line {line}: {reason}: {first}{more}")
    return (
        f"{flag}: {path}, {'. '.join(reasons)}. Fix these rows: a field that holds the delimiter, {delimiter!r}, "
        f"stands in quotes. Or prepare the table, which leaves such rows out and counts them: python -m "
        f"rankclip_jax.input_pipeline.prepare --source csv --input {path}"
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
