"""Evaluation datasets in their published layouts, one module per layout.

Each module has ``open_set(path, split, wording)``, which returns a `Source` with its `GroundTruth` in the attribute
``truth``, and ``matches(path, split)``, which detects the layout. Labelled images have no captions. For tasks that tell
right captions from wrong ones, the right one comes first.
"""

from pathlib import Path

from ..errors import UserError
from ..evaluation_sets import class_folder, image_list, prepared, sugar_crepe, tfds_split, webdataset, winogavil
from ..evaluation_sets.wording import ClassPrompts
from ..files import printable
from ..source import Source

FORMATS = {  # stricter layouts come before looser ones
    "prepared": prepared,
    "tfds": tfds_split,
    "winogavil": winogavil,
    "sugar_crepe": sugar_crepe,
    "webdataset": webdataset,
    "csv": image_list,
    "folder": class_folder,
}


def open_set(name: str, path: Path, split: str, wording: ClassPrompts) -> Source:
    """Opens a split of a dataset, and checks its files without decoding images.

    Args:
      name: a key of `FORMATS`; empty: the first layout that matches.
      path: the dataset's folder or file.
      split: the split, such as ``test``.
      wording: class names and templates that replace or complete those of the dataset.

    Raises:
      UserError: the dataset is missing, incomplete or not in this layout.
    """
    try:
        if not path.exists():
            raise UserError(f"nothing at {path}. Put the dataset there, or use another folder.")
        return FORMATS[name or _matching(path, split)].open_set(path, split, wording)
    except OSError as error:
        raise UserError(f"{printable(error.filename or path)}: {error.strerror or error}.") from error


def _matching(path: Path, split: str) -> str:
    for name, module in FORMATS.items():
        if module.matches(path, split):
            return name
    raise UserError(f"{path}: unknown layout. Set the task's format; choose from {', '.join(FORMATS)}.")
