"""A folder for each class, as ImageNet and its variants come: ``split/class/image.jpg``, or without the split.

What the classes are called: ``classnames.txt`` beside the splits, a line for each folder in the order of their names,
or the folders' own names where there is no such file; and ``zeroshot_classification_templates.txt``.
"""

import dataclasses
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..evaluation_sets.wording import NAMES, Wording, labelled, read_lines
from ..preparation.folder import IMAGE_SUFFIXES
from ..source import Truth


@dataclasses.dataclass(frozen=True)
class LabelledFiles:
    """Image files; item ``i`` is ``{"image": Path, "text": captions}``."""

    paths: tuple[Path, ...]
    truth: Truth
    captions: tuple[tuple[str, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.paths[index], "text": list(self.captions[index]) if self.captions else []}


def open_set(path: Path, split: str, wording: Wording) -> LabelledFiles:
    """See `evaluation_sets.open_set`."""
    root = path / split if (path / split).is_dir() else path
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir())
    if not folders:
        raise UserError(f"{root}: no folders, of which each is to be a class.")
    files = [sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES) for folder in folders]
    if empty := [folder for folder, found in zip(folders, files, strict=True) if not found]:
        raise UserError(f"{empty[0]}: no images of this class. Is the download complete?")
    labels = np.repeat(np.arange(len(folders)), [len(found) for found in files])
    names = read_lines(path / NAMES) or [folder.name.replace("_", " ") for folder in folders]
    truth = labelled(wording, names, labels, path, root)
    if truth.classes and len(truth.classes.names) > len(folders):
        raise UserError(f"{root}: {len(folders)} folders, and {len(truth.classes.names)} names of classes.")
    return LabelledFiles(tuple(file for found in files for file in found), truth)
