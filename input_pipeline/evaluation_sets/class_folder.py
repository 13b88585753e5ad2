"""A folder for each class, as ImageNet and its variants come: ``split/class/image.jpg``, or without the split.

What the classes are called: ``classnames.txt`` beside the splits, a line for each folder in the order of their names,
or the folders' own names where there is no such file; and ``zeroshot_classification_templates.txt``.

Hidden folders and files, such as ``.ipynb_checkpoints`` and ``._0.jpg``, are no classes and no images. Files of formats
that are not read, and images beside the folders, are counted in a warning.
"""

import dataclasses
import logging
import os
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..evaluation_sets.wording import NAMES, ClassPrompts, labelled, read_lines
from ..file_names import IMAGE_SUFFIXES, count_suffixes, is_hidden, names_below
from ..files import printable
from ..source import GroundTruth

_LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LabelledFiles:
    """Image files; item ``i`` is ``{"image": Path, "text": captions}``."""

    paths: tuple[Path, ...]
    truth: GroundTruth
    captions: tuple[tuple[str, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.paths[index], "text": list(self.captions[index]) if self.captions else []}


def matches(path: Path, split: str) -> bool:
    """Whether there are folders."""
    root = path / split if (path / split).is_dir() else path
    return root.is_dir() and any(folder.is_dir() and not is_hidden(folder.name) for folder in root.iterdir())


def open_set(path: Path, split: str, wording: ClassPrompts) -> LabelledFiles:
    """See `evaluation_sets.open_set`."""
    root = path / split if (path / split).is_dir() else path
    folders = sorted(folder for folder in root.iterdir() if not is_hidden(folder.name) and folder.is_dir())
    if not folders:
        raise UserError(f"{root}: no folders, of which each is to be a class.")
    names_of = [[name for name in names_below(folder) if not is_hidden(name)] for folder in folders]
    files = [
        [folder / name for name in found if _is_image(name)] for folder, found in zip(folders, names_of, strict=True)
    ]
    skipped_steps = [name for found in names_of for name in found if not _is_image(name)]
    skipped_steps += [path.name for path in root.iterdir() if _is_image(path.name) and not is_hidden(path.name)]
    if skipped_steps:
        _LOGGER.warning("%s: files that are no images of a class are left out: %s", root, count_suffixes(skipped_steps))
    if empty := [folder for folder, found in zip(folders, files, strict=True) if not found]:
        raise UserError(f"{empty[0]}: no images of this class. Is the download complete?")
    labels = np.repeat(np.arange(len(folders)), [len(found) for found in files])
    names = read_lines(path / NAMES) or [printable(folder.name).replace("_", " ") for folder in folders]
    truth = labelled(wording, names, labels, path, root)
    if truth.classes and len(truth.classes.names) > len(folders):
        raise UserError(f"{root}: {len(folders)} folders, and {len(truth.classes.names)} names of classes.")
    return LabelledFiles(tuple(file for found in files for file in found), truth)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
