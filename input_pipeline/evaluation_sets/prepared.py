"""Splits of prepared data, written by ``python -m rankclip_jax.input_pipeline.prepare``.

Some sources know more than pairs, and the manifest has it under ``truth``:

- ``word_weights``: the weight of each word. The relevance of an image to a caption is then the share of the caption's
  weight in words that a caption of the image has too.
- ``classes``: class ``names`` and prompt ``templates``, and by key the ``labels`` of images of the split ``of``. These
  images are the split ``classes``.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..array_record import PreparedSplit, open_split
from ..errors import UserError
from ..evaluation_sets.wording import ClassPrompts, words_of
from ..preparation import manifest
from ..source import GroundTruth, Source, captions

CLASSES = "classes"


@dataclasses.dataclass(frozen=True)
class PreparedSet:
    """Some records of a prepared split, with their ground truth.

    Args:
      split: the split.
      numbers: the indices of the records.
      truth: the ground truth.
    """

    split: PreparedSplit
    numbers: Sequence[int]
    truth: GroundTruth

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict:
        return self.split[self.numbers[index]]


def matches(path: Path, split: str) -> bool:
    """Whether the path is a folder of prepared data."""
    del split
    return manifest.path_in(path).is_file()


def open_set(path: Path, split: str, wording: ClassPrompts) -> PreparedSet:
    """See `evaluation_sets.open_set`."""
    content = manifest.read(path)
    truth = content.get("truth", {})
    if split == CLASSES:
        return _labelled(path, truth.get(CLASSES), wording)
    if split not in content["splits"]:
        choices = [*content["splits"], *([CLASSES] if CLASSES in truth else ())]
        raise UserError(f"{path}: no split {split!r}; choose from {', '.join(choices)}, and set the task's split.")
    opened = open_split(path, split, flag="path")
    weights = truth.get("word_weights")
    found = PreparedSet(opened, range(len(opened)), GroundTruth())
    if not weights:
        return found
    return dataclasses.replace(found, truth=GroundTruth(relevance=lambda numbers: relevance(found, numbers, weights)))


def relevance(source: Source, numbers: Sequence[int], weights: dict[str, float]) -> np.ndarray:
    """Returns the relevance of each image (row) to each first caption (column), in [0, 1]: float ``[n, n]``."""
    sentences = [captions(source[number]) for number in numbers]
    of_image = [words_of(" ".join(texts)) for texts in sentences]
    of_caption = [words_of(texts[0]) for texts in sentences]
    index = {word: column for column, word in enumerate(sorted(set().union(*of_image, *of_caption)))}

    def rows(found: list[set[str]]) -> np.ndarray:
        flags = np.zeros((len(found), len(index)))
        for row, words in zip(flags, found, strict=True):
            row[[index[word] for word in words]] = 1
        return flags

    heaviest = max(weights.values())  # of a word that training data do not have
    weight = np.asarray([weights.get(word, heaviest) for word in index])
    caption = rows(of_caption) * weight
    return rows(of_image) @ caption.T / np.maximum(caption.sum(axis=1), np.finfo(float).tiny)


def _labelled(path: Path, classes: Any, wording: ClassPrompts) -> PreparedSet:
    if not isinstance(classes, dict) or not all(key in classes for key in ("of", "names", "templates", "labels")):
        raise UserError(
            f"{path}: no classes. Use data whose source has them, such as --source iconify, or another split."
        )
    split = open_split(path, str(classes["of"]), flag="path")
    labels = {number: classes["labels"][key] for number, key in enumerate(split.keys()) if key in classes["labels"]}
    if not labels:
        raise UserError(f"{path}: no image of {classes['of']!r} has a class. Prepare the dataset again.")
    label_of = np.asarray(list(labels.values()))
    named = wording.classes(classes["names"], classes["templates"], lambda numbers: label_of[np.asarray(numbers, int)])
    return PreparedSet(split, list(labels), GroundTruth(classes=named))
