"""Interfaces of datasets: sources, mixtures, and the ground truth for evaluation."""

import abc
import bisect
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

import numpy as np

from .errors import UserError
from .setting import Settings


class Source(Protocol):
    """A dataset: item ``i`` is ``{"image": Path, bytes or uint8 pixels, "text": str or several}``.

    Reading a damaged record raises `UnreadableError`.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict: ...


@dataclasses.dataclass(frozen=True)
class DataSource(Settings, abc.ABC):
    """A kind of training data: a frozen dataclass of its options, each a `setting` under ``config.data``."""

    section = "data"

    expects: ClassVar[str] = "a file or folder"  # description of its paths, for errors
    in_object_stores: ClassVar[bool] = False  # whether a path may be in an object store
    holds_splits: ClassVar[bool] = False  # whether one path contains all splits

    @abc.abstractmethod
    def open(self, path: str, split: str, *, image_size: int, seed: int) -> Source:
        """Opens the ``"train"`` or ``"validation"`` data at a path.

        Raises:
          UserError: the data are missing or invalid; the message names ``config.data.<split>``.
        """

    def has_validation(self, path: str) -> bool:
        """Whether there are validation data if ``config.data.validation`` is ``path``."""
        return self.holds_splits or bool(path)


@dataclasses.dataclass(frozen=True)
class Classes:
    """The classes of a dataset's images.

    Args:
      names: the class names.
      prompts: the sentences that describe each class.
      labels: maps record indices to classes, int ``[n]``; for multi-label data, to zeros and ones ``[n, classes]``.
    """

    names: Sequence[str]
    prompts: Sequence[Sequence[str]]
    labels: Callable[[Sequence[int]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Choice:
    """A choice task: which of several images match a sentence.

    Args:
      cue: the sentence.
      images: the indices of their records.
      right: whether each image matches the sentence.
    """

    cue: str
    images: tuple[int, ...]
    right: tuple[bool, ...]


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """The ground truth of a dataset, besides its pairs.

    Args:
      classes: the classes of its images; None: unknown.
      relevance: maps n record indices to the relevance of each image (row) to each first caption (column), float
        ``[n, n]``, nonnegative; None: unknown.
      groups: maps record indices to groups of their images, such as regions, int ``[n]``; None: unknown. May raise
        UserError.
      choices: choice tasks; empty: none.
    """

    classes: Classes | None = None
    relevance: Callable[[Sequence[int]], np.ndarray] | None = None
    groups: Callable[[Sequence[int]], np.ndarray] | None = None
    choices: Sequence[Choice] = ()


def ground_truth_of(source: Source) -> GroundTruth:
    """Returns a source's attribute ``truth``, or an empty ground truth if it has none."""
    return getattr(source, "truth", GroundTruth())


@dataclasses.dataclass(frozen=True)
class Sample:
    """Some records of a dataset, with their ground truth.

    Args:
      source: the dataset.
      numbers: the indices of the records.
    """

    source: Source
    numbers: Sequence[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict:
        return self.source[self.numbers[index]]

    @property
    def truth(self) -> GroundTruth:
        """The ground truth of these records.

        Raises:
          UserError: the dataset has choice tasks, which cannot be sampled.
        """
        whole = ground_truth_of(self.source)
        if whole.choices:
            raise UserError("max_examples: choice tasks cannot be sampled. Use max_examples=0.")

        def of(values: Callable[[Sequence[int]], np.ndarray]) -> Callable[[Sequence[int]], np.ndarray]:
            return lambda numbers: values([self.numbers[number] for number in numbers])

        return GroundTruth(
            whole.classes and dataclasses.replace(whole.classes, labels=of(whole.classes.labels)),
            whole.relevance and of(whole.relevance),
            whole.groups and of(whole.groups),
        )


def sampled(source: Source, size: int) -> Sample:
    """Returns ``size`` records of a dataset in random order, the same in every call."""
    return Sample(source, np.random.default_rng(0).permutation(len(source))[:size].tolist())


def identity_of(source: "Source | Mixture") -> list[dict[str, object]]:
    """Returns the identity of each dataset, which changes with its content: numbers and digests by name.

    It is the result of the dataset's ``identity()`` if it has one, or else only its number of records.
    """
    parts = source.parts if isinstance(source, Mixture) else (source,)
    return [part.identity() if hasattr(part, "identity") else {"records": len(part)} for part in parts]


def captions(record: dict) -> list[str]:
    """Returns all captions of a record; labelled images may have none."""
    return [record["text"]] if isinstance(record["text"], str) else list(record["text"])


@dataclasses.dataclass(frozen=True)
class Mixture:
    """A concatenation of datasets; training samples each in proportion to its weight.

    Args:
      parts: the datasets.
      weights: the positive weight of each dataset; they need not sum to 1.
    """

    parts: tuple[Source, ...]
    weights: tuple[float, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: int) -> dict:
        ends = list(itertools.accumulate(map(len, self.parts)))
        part = bisect.bisect_right(ends, index)
        return self.parts[part][index - (ends[part - 1] if part else 0)]
