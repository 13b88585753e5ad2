"""A CSV or TSV file with columns ``filepath``, and ``label`` (a number or a class name) or ``title`` (a caption).

All rows of one image are its captions. Relative paths start from the file's folder. The optional column ``split``
selects the rows of a split.
"""

import re
from pathlib import Path

import numpy as np

from .. import tables
from ..errors import UserError
from ..evaluation_sets.class_folder import LabelledFiles
from ..evaluation_sets.wording import NAMES, ClassPrompts, labelled, read_lines
from ..files import printable
from ..source import GroundTruth

_LONGEST_HEADER = 1 << 20  # bytes
_IMAGE, _LABEL, _CAPTION, _SPLIT = "filepath", "label", "title", "split"


def matches(path: Path, split: str) -> bool:
    """Whether the path is a CSV or TSV file."""
    del split
    return path.is_file() and path.name.removesuffix(".gz").endswith((".csv", ".tsv"))


def open_set(path: Path, split: str, wording: ClassPrompts) -> LabelledFiles:
    """See `evaluation_sets.open_set`."""
    tables.check(path, str(path))
    delimiter = tables.delimiter_of(path)
    columns = tables.column_names(path, delimiter, flag=str(path))
    target = _LABEL if _LABEL in columns else _CAPTION
    wanted = (_IMAGE, target, *((_SPLIT,) if _SPLIT in columns else ()))
    rows = []
    for line, values in tables.rows(path, wanted, delimiter, flag=str(path)):
        if isinstance(values, tables.BadRow):
            raise UserError(f"{path}, line {line}: {values.reason}: {values.found}.")
        if any("\udc80" <= character <= "\udcff" for value in values for character in value):
            raise UserError(f"{path}, line {line}: expected UTF-8 text. Convert the file, for example with iconv.")
        if not all(value.strip() for value in values[:2]):
            raise UserError(f"{path}, line {line}: expected {_IMAGE} and {target}; found an empty field.")
        if len(values) < 3 or values[2] == split:
            rows.append((path.parent / values[0], values[1].strip()))
    if not rows:
        raise UserError(f"{path}: found no rows{f' of the split {split!r}' if _SPLIT in columns else ''}.")
    if target == _CAPTION:
        texts: dict[Path, list[str]] = {}
        for image, text in rows:
            texts.setdefault(image, []).append(text)
        return LabelledFiles(tuple(texts), GroundTruth(), tuple(map(tuple, texts.values())))
    words, names = [label for _, label in rows], read_lines(path.parent / NAMES)
    if all(re.fullmatch("[0-9]{1,9}", word) for word in words):
        labels = np.asarray([int(word) for word in words])
    else:
        names = names or sorted(set(words))
        if unknown := sorted(set(words) - set(names)):
            raise UserError(f"{path}: the label {printable(repr(unknown[0]))} is not among the names in {NAMES}.")
        labels = np.asarray([names.index(word) for word in words])
    truth = labelled(wording, names, labels, path.parent, path)
    return LabelledFiles(tuple(image for image, _ in rows), truth)
