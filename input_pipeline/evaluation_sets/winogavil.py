"""WinoGAViL's layout: a CSV file whose rows have a cue, candidate images, and the images associated with the cue.

The file is ``SPLIT.csv`` or ``winogavil_dataset.csv``, with columns ``cue``, ``candidates`` and ``associations``; the
last two are JSON lists of image names. The images are ``winogavil_images/NAME.jpg``, as in the published archive.
"""

import csv
import io
import json
from pathlib import Path

from ..errors import UserError
from ..evaluation_sets.class_folder import LabelledFiles
from ..evaluation_sets.wording import ClassPrompts
from ..files import is_file, printable, read_text
from ..source import Choice, GroundTruth

_COLUMNS = ("cue", "candidates", "associations")


def matches(path: Path, split: str) -> bool:
    """Whether the folder of images exists."""
    del split
    return (path / "winogavil_images").is_dir()


def open_set(path: Path, split: str, wording: ClassPrompts) -> LabelledFiles:
    """See `evaluation_sets.open_set`; the records are the distinct images, sorted by name."""
    del wording
    tables = path / f"{split}.csv", path / "winogavil_dataset.csv"
    file = next((table for table in tables if table.is_file()), None)
    if file is None:
        raise UserError(f"{path}: expected {split}.csv or winogavil_dataset.csv; found neither.")
    try:
        rows = [_row(row) for row in csv.DictReader(io.StringIO(read_text(file), newline=""))]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        words = printable(f"{type(error).__name__}: {error}")
        raise UserError(f"{file}: expected columns {', '.join(_COLUMNS)}, two of them JSON lists ({words}).") from error
    if not rows:
        raise UserError(f"{file}: expected rows; found none.")
    for number, (cue, candidates, right) in enumerate(rows, 1):
        if not cue or not right or len(set(candidates)) < len(candidates) or not right < set(candidates):
            raise UserError(
                f"{file}, row {number}: expected a cue, distinct candidates and a proper subset as associations; found "
                f"{printable(f'{cue!r}, {candidates}, {sorted(right)}')}."
            )
    names = sorted({name for _, candidates, _ in rows for name in candidates})
    paths = tuple(path / "winogavil_images" / f"{name}.jpg" for name in names)
    if missing := [image for image in paths if not is_file(image)]:
        raise UserError(
            f"{len(missing)} of {len(paths)} images are missing, for example {printable(missing[0])}. Check that the "
            "download is complete."
        )
    index_of = {name: number for number, name in enumerate(names)}
    choices = tuple(
        Choice(
            f"{'An' if cue[0].lower() in 'aeiou' else 'A'} {cue.lower()}",  # the prompt of WinoGAViL's authors for CLIP
            tuple(index_of[name] for name in candidates),
            tuple(name in right for name in candidates),
        )
        for cue, candidates, right in rows
    )
    return LabelledFiles(paths, GroundTruth(choices=choices))


def _row(row: dict[str, str]) -> tuple[str, list[str], set[str]]:
    """Returns the cue, its candidates and its associations."""
    candidates, right = (json.loads(row[column]) for column in _COLUMNS[1:])
    names = [*candidates, *right] if isinstance(candidates, list) and isinstance(right, list) else [None]
    if not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise ValueError(f"expected lists of image names; found {candidates} and {right}")
    return row["cue"].strip(), candidates, set(right)
