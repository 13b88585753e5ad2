"""WinoGAViL's form: a CSV whose every row is a cue, the images to choose among, and those that belong to the cue.

``SPLIT.csv`` or ``winogavil_dataset.csv``, with the columns ``cue``, ``candidates`` and ``associations``, the last two
JSON lists of images' names; the images are ``winogavil_images/NAME.jpg`` beside it, as the downloaded archive has them.
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
    """Whether its images' folder is there."""
    del split
    return (path / "winogavil_images").is_dir()


def open_set(path: Path, split: str, wording: ClassPrompts) -> LabelledFiles:
    """See `evaluation_sets.open_set`; each image once, in the order of their names."""
    del wording
    file = next((one for one in (path / f"{split}.csv", path / "winogavil_dataset.csv") if one.is_file()), None)
    if file is None:
        raise UserError(f"{path}: neither {split}.csv nor winogavil_dataset.csv is there.")
    try:
        rows = [_row(row) for row in csv.DictReader(io.StringIO(read_text(file), newline=""))]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, csv.Error) as error:
        words = printable(f"{type(error).__name__}: {error}")
        raise UserError(f"{file}: expected columns {', '.join(_COLUMNS)}, two of them JSON lists ({words}).") from error
    if not rows:
        raise UserError(f"{file}: no rows.")
    for number, (cue, candidates, right) in enumerate(rows, 1):
        if not cue or not right or len(set(candidates)) < len(candidates) or not right < set(candidates):
            raise UserError(
                f"{file}, row {number}: expected a cue, different candidates, and some of them as associations; found "
                f"{printable(f'{cue!r}, {candidates}, {sorted(right)}')}."
            )
    names = sorted({name for _, candidates, _ in rows for name in candidates})
    paths = tuple(path / "winogavil_images" / f"{name}.jpg" for name in names)
    if missing := [one for one in paths if not is_file(one)]:
        raise UserError(f"{printable(missing[0])}: missing, as {len(missing)} of {len(paths)} images.")
    place = {name: number for number, name in enumerate(names)}
    choices = tuple(
        Choice(
            f"{'An' if cue[0].lower() in 'aeiou' else 'A'} {cue.lower()}",  # as WinoGAViL's authors ask CLIP
            tuple(place[name] for name in candidates),
            tuple(name in right for name in candidates),
        )
        for cue, candidates, right in rows
    )
    return LabelledFiles(paths, GroundTruth(choices=choices))


def _row(row: dict[str, str]) -> tuple[str, list[str], set[str]]:
    """The cue, its candidates and those that are right."""
    candidates, right = (json.loads(row[column]) for column in _COLUMNS[1:])
    names = [*candidates, *right] if isinstance(candidates, list) and isinstance(right, list) else [None]
    if not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise ValueError(f"{candidates} and {right} are no names of images")
    return row["cue"].strip(), candidates, set(right)
