"""SugarCrepe's layout: a JSON file for each kind of wrong caption, and a folder of images.

``{"0": {"filename": "000000000001.jpg", "caption": right, "negative_caption": wrong}, ...}``; the split is the
file's name (``add_att.json`` is the split ``add_att``). The images are in the folder ``images``, or next to the file.
"""

from pathlib import Path

from ..errors import UserError
from ..evaluation_sets.class_folder import LabelledFiles
from ..evaluation_sets.wording import ClassPrompts
from ..files import is_file, printable, read_json
from ..source import GroundTruth

_KEYS = ("filename", "caption", "negative_caption")


def matches(path: Path, split: str) -> bool:
    """Whether the split's JSON file exists."""
    return (path / f"{split}.json").is_file()


def open_set(path: Path, split: str, wording: ClassPrompts) -> LabelledFiles:
    """See `evaluation_sets.open_set`; the right caption of each image comes first."""
    del wording
    file = path / f"{split}.json"
    if not file.is_file():
        available = ", ".join(sorted(found.stem for found in path.glob("*.json"))) or "none"
        raise UserError(f"{file}: no such file; available splits: {available}.")
    try:
        entries = read_json(file, object)
        rows = list(entries.values() if isinstance(entries, dict) else entries)
        values = [tuple(row[key] for key in _KEYS) for row in rows]
    except (KeyError, TypeError) as error:
        words = printable(f"{type(error).__name__}: {error}")
        raise UserError(f"{file}: expected objects with {', '.join(_KEYS)} ({words}).") from error
    if not values or not all(isinstance(value, str) and value for row in values for value in row):
        raise UserError(
            f"{file}: expected objects with nonempty strings {', '.join(_KEYS)}; found "
            f"{'one without them' if values else 'no object'}. Download the file again."
        )
    folder = path / "images" if (path / "images").is_dir() else path
    if outside := [name for name, _, _ in values if ".." in Path(name).parts or Path(name).is_absolute()]:
        raise UserError(f"{file}: expected names of files in {folder}; found {printable(outside[0])}.")
    if missing := [name for name, _, _ in values if not is_file(folder / name)]:
        raise UserError(
            f"{printable(folder)}: {len(missing)} of {len(values)} images are missing, for example "
            f"{printable(missing[0])}. Check that the download is complete."
        )
    paths = tuple(folder / name for name, _, _ in values)
    return LabelledFiles(paths, GroundTruth(), tuple((right, wrong) for _, right, wrong in values))
