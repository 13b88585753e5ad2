"""Datasets that models are measured on, in the layouts that exist: a file for each.

Each ``open_set(path, split, wording)`` returns a `Source` whose attribute ``truth`` says what is known of its images;
``matches(path, split)`` says whether files that are there look like the layout.
Images with labels have no captions; where right and wrong captions are to be told apart, the right one comes first.
"""

from pathlib import Path

from ..errors import UserError
from ..evaluation_sets import class_folder, image_list, sugar_crepe, tfds_split, webdataset, winogavil
from ..evaluation_sets.wording import ClassPrompts
from ..files import printable
from ..source import Source

FORMATS = {  # those before others that match less than they do
    "tfds": tfds_split,
    "winogavil": winogavil,
    "sugar_crepe": sugar_crepe,
    "webdataset": webdataset,
    "csv": image_list,
    "folder": class_folder,
}


def open_set(name: str, path: Path, split: str, wording: ClassPrompts) -> Source:
    """Opens a split of a dataset, and reads of it what can be wrong: nothing is decoded.

    Args:
      name: a key of `FORMATS`; empty: the first that matches.
      path: the dataset's folder or file.
      split: such as ``test``.
      wording: what its classes are called, where the dataset's own files do not say or are not to be used.

    Raises:
      UserError: it is missing, incomplete or not what the format says.
    """
    try:
        if not path.exists():
            raise UserError(f"nothing at {path}. Put the dataset there, or name another folder.")
        return FORMATS[name or _matching(path, split)].open_set(path, split, wording)
    except OSError as error:
        raise UserError(f"{printable(error.filename or path)}: {error.strerror or error}.") from error


def _matching(path: Path, split: str) -> str:
    for name, module in FORMATS.items():
        if module.matches(path, split):
            return name
    raise UserError(f"{path}: not one of the layouts {', '.join(FORMATS)}. Name its format.")
