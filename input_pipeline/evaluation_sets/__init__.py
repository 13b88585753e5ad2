"""Datasets that models are measured on, in the layouts that exist: a file for each.

Each ``open_set(path, split, wording)`` returns a `Source` whose attribute ``truth`` says what is known of its images.
Images with labels have no captions; where right and wrong captions are to be told apart, the right one comes first.
"""

from pathlib import Path

from ..errors import UserError
from ..evaluation_sets import class_folder, image_list, sugar_crepe, tfds_split, webdataset, winogavil
from ..evaluation_sets.wording import ClassPrompts
from ..files import printable
from ..source import Source

FORMATS = {
    "webdataset": webdataset,
    "folder": class_folder,
    "csv": image_list,
    "tfds": tfds_split,
    "sugar_crepe": sugar_crepe,
    "winogavil": winogavil,
}


def open_set(name: str, path: Path, split: str, wording: ClassPrompts) -> Source:
    """Opens a split of a dataset, and reads of it what can be wrong: nothing is decoded.

    Args:
      name: a key of `FORMATS`.
      path: the dataset's folder or file.
      split: such as ``test``.
      wording: what its classes are called, where the dataset's own files do not say or are not to be used.

    Raises:
      UserError: it is missing, incomplete or not what the format says.
    """
    if name not in FORMATS:
        raise UserError(f"unknown format {name!r}; choose from {', '.join(FORMATS)}.")
    try:
        if not path.exists():
            raise UserError(f"nothing at {path}. Put the dataset there, or name another folder with --data.")
        return FORMATS[name].open_set(path, split, wording)
    except OSError as error:
        raise UserError(f"{printable(error.filename or path)}: {error.strerror or error}.") from error
