r"""Image files on disk, listed with their captions in a CSV or TSV file, as for open_clip and the RankCLIP release."""

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
_NOT_UTF_8 = re.compile("[\udc80-\udcff]")  # Python's surrogateescape of invalid bytes
_SIZES = 256  # maximum number of image files whose sizes are part of a dataset's identity


@dataclasses.dataclass(frozen=True)
class CsvSource(DataSource):
    """Image files named by a CSV or TSV file."""

    expects = "a CSV file"

    image_key: str = setting("filepath", "csv: the column of image paths (open_clip's name; the release's is image)")
    caption_key: str = setting("title", "csv: the column of captions (open_clip's name), or several: short,long")
    delimiter: str = setting("", "csv: column delimiter; empty: by the suffix, a comma for .csv and a tab for .tsv")

    def __post_init__(self) -> None:
        if len(self.delimiter.replace("\\t", "\t")) > 1:
            raise UserError(f"config.data.delimiter: expected one character or nothing; found {self.delimiter!r}.")

    def open(self, path: str, split: str, *, image_size: int, seed: int) -> "CsvFile":
        """Opens the pairs that a file lists."""
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
      paths: the paths of the images.
      captions: the caption or captions of each image.
      folder: the folder that relative paths start from.
    """

    paths: tuple[Path, ...]
    captions: tuple[str | tuple[str, ...], ...]
    folder: Path = Path()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.paths[index], "text": self.captions[index]}

    def identity(self) -> dict[str, object]:
        """See `source.identity_of`: digests of all captions, all image names, and the sizes of some files."""
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
    r"""Reads the list of pairs; relative image paths start from the file's folder.

    Args:
      path: the file.
      image_key: name of the column of image paths.
      caption_key: name of the column of captions, or several names separated by commas; empty captions of several
        are dropped.
      delimiter: one character; the two characters ``\t`` mean a tab; empty: see `delimiter_of`.
      flag: the setting that names the file, for errors.

    Raises:
      UserError: the file is missing, not text, empty, or lacks a column; or some rows are invalid.
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
            "%s: skipped %d rows without a path or a caption, such as line %d",
            printable(path),
            len(incomplete),
            incomplete[0],
        )
    if not pairs:
        raise UserError(f"{flag}: {path}: expected rows with a path and a caption below the column names; found none.")
    folder = path.parent
    return CsvFile(tuple(folder / image for image, _ in pairs), tuple(texts for _, texts in pairs), folder)


def _explain(path: Path, delimiter: str, bad: dict[str, list[tuple[int, str]]], flag: str) -> str:
    """Returns the message about invalid rows, by reason, with line numbers."""
    reasons = []
    for reason, found in bad.items():
        line, first = found[0]
        more = f"; also lines {list_lines([line for line, _ in found[1:]])}" if len(found) > 1 else ""
        reasons.append(f"line {line}: {reason}: {first}{more}")
    return (
        f"{flag}: {path}, {'. '.join(reasons)}. Fix these rows: put quotes around a field that contains the delimiter, "
        f"{delimiter!r}. Or prepare the table, which skips and counts such rows: python -m "
        f"rankclip_jax.input_pipeline.prepare --source csv --input {path}"
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
