"""What the loader reads: a dataset, or several as one."""

import abc
import bisect
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

import numpy as np

from .setting import Settings


class Source(Protocol):
    """A dataset: item ``i`` is ``{"image": Path, bytes or uint8 pixels, "text": str or several}``.

    Reading an item raises `UnreadableError` where the record is damaged.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict: ...


@dataclasses.dataclass(frozen=True)
class DataSource(Settings, abc.ABC):
    """A kind of training data: a frozen dataclass of its options, each a `setting` under ``config.data``."""

    section = "data"

    expects: ClassVar[str] = "a file or folder"  # what a path of it is, for errors
    in_object_stores: ClassVar[bool] = False  # whether a path may be in one
    holds_splits: ClassVar[bool] = False  # whether one path holds the validation data too

    @abc.abstractmethod
    def open(self, path: str, split: str, *, image_size: int, seed: int) -> Source:
        """Opens the ``"train"`` or ``"validation"`` data at a path.

        Raises:
          UserError: they are not there, or not what they should be; it names ``config.data.<split>``.
        """

    def has_validation(self, path: str) -> bool:
        """Whether there are validation data, where ``config.data.validation`` is ``path``."""
        return self.holds_splits or bool(path)


@dataclasses.dataclass(frozen=True)
class Classes:
    """What an image of a dataset can be.

    Args:
      names: of the classes.
      prompts: for each class the sentences that describe it.
      labels: from the numbers of records to their classes, int ``[n]``; where an image may have several, zeros and ones
        ``[n, classes]``.
    """

    names: Sequence[str]
    prompts: Sequence[Sequence[str]]
    labels: Callable[[Sequence[int]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Choice:
    """Some images to choose among.

    Args:
      cue: the sentence that some of them belong to.
      images: the numbers of their records.
      right: whether each belongs to it.
    """

    cue: str
    images: tuple[int, ...]
    right: tuple[bool, ...]


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """What is known of a dataset beside its pairs.

    Args:
      classes: what its images can be; None: not known.
      relevance: from the numbers of n records to that of each's image (row) to each's first caption (column), float
        ``[n, n]`` at least zero; None: not known.
      groups: from the numbers of records to what else their images are told apart by, such as a region, int ``[n]``;
        None: not known. May raise UserError.
      choices: sentences and the images to choose among for each; empty: not known.
    """

    classes: Classes | None = None
    relevance: Callable[[Sequence[int]], np.ndarray] | None = None
    groups: Callable[[Sequence[int]], np.ndarray] | None = None
    choices: Sequence[Choice] = ()


def ground_truth_of(source: Source) -> GroundTruth:
    """What a source says of itself in its attribute ``truth``; most have none."""
    return getattr(source, "truth", GroundTruth())


def identity_of(source: "Source | Mixture") -> list[dict[str, object]]:
    """What tells each dataset from others, and from itself once it is changed: numbers and digests by name.

    It is what the dataset's ``identity()`` returns where there is one, and else the number of its records alone.
    """
    parts = source.parts if isinstance(source, Mixture) else (source,)
    return [part.identity() if hasattr(part, "identity") else {"records": len(part)} for part in parts]


def captions(record: dict) -> list[str]:
    """All captions of a record; images with labels may have none."""
    return [record["text"]] if isinstance(record["text"], str) else list(record["text"])


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Datasets one after the other; training draws from each in proportion to its weight.

    Args:
      weights: of each part, positive; they need not sum to 1.
    """

    parts: tuple[Source, ...]
    weights: tuple[float, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: int) -> dict:
        ends = list(itertools.accumulate(map(len, self.parts)))
        part = bisect.bisect_right(ends, index)
        return self.parts[part][index - (ends[part - 1] if part else 0)]
