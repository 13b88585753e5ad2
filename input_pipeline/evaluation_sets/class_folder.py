"""One folder per class, as in ImageNet and its variants: ``split/class/image.jpg``, or without the split.

The class names come from ``classnames.txt`` next to the splits, one line per folder in sorted order, or else from the
names of the folders. Templates come from ``zeroshot_classification_templates.txt``.

Hidden folders and files, such as ``.ipynb_checkpoints`` and ``._0.jpg``, are ignored. A warning counts files of
unsupported formats and images outside the class folders.
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
    """Whether the dataset has class folders."""
    root = path / split if (path / split).is_dir() else path
    return root.is_dir() and any(folder.is_dir() and not is_hidden(folder.name) for folder in root.iterdir())


def open_set(path: Path, split: str, wording: ClassPrompts) -> LabelledFiles:
    """See `evaluation_sets.open_set`."""
    root = path / split if (path / split).is_dir() else path
    folders = sorted(folder for folder in root.iterdir() if not is_hidden(folder.name) and folder.is_dir())
    if not folders:
        raise UserError(f"{root}: expected one folder per class; found no folders.")
    names_of = [[name for name in names_below(folder) if not is_hidden(name)] for folder in folders]
    files = [
        [folder / name for name in found if _is_image(name)] for folder, found in zip(folders, names_of, strict=True)
    ]
    ignored_files = [name for found in names_of for name in found if not _is_image(name)]
    ignored_files += [path.name for path in root.iterdir() if _is_image(path.name) and not is_hidden(path.name)]
    if ignored_files:
        _LOGGER.warning("%s: ignored files that are not images of a class: %s", root, count_suffixes(ignored_files))
    if empty := [folder for folder, found in zip(folders, files, strict=True) if not found]:
        raise UserError(f"{empty[0]}: expected images of this class; found none. Check that the download is complete.")
    labels = np.repeat(np.arange(len(folders)), [len(found) for found in files])
    names = read_lines(path / NAMES) or [printable(folder.name).replace("_", " ") for folder in folders]
    truth = labelled(wording, names, labels, path, root)
    if truth.classes and len(truth.classes.names) > len(folders):
        raise UserError(
            f"{root}: expected one class name for each of {len(folders)} folders; found {len(truth.classes.names)} "
            "names. Correct the names, or check that the download is complete."
        )
    return LabelledFiles(tuple(file for found in files for file in found), truth)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
