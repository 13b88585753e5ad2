"""What an evaluation is given, and what it provides: the seam between a model and a measure of it.

An evaluation is one file: a subclass of `Evaluation` and a row in ``__init__.py``, or ``"task": "package.module:Name"``
in ``config.evaluation.tasks``.
"""

import abc
import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import ClassVar

import jax
import numpy as np

from rankclip_jax.evaluation.embedder import Embedded, Embedder
from rankclip_jax.evaluation.metric import Metric, count
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.images import MAX_PIXELS
from rankclip_jax.input_pipeline.setting import Settings
from rankclip_jax.input_pipeline.source import Classes, Source, ground_truth_of
from rankclip_jax.models.clip import Variables
from rankclip_jax.objectives import Objective

UNREADABLE = "unreadable_images"


def _rows_of_device() -> int:
    return 32 if jax.default_backend() == "cpu" else 256


@dataclasses.dataclass(frozen=True)
class Data:
    """The data of an evaluation.

    Args:
      source: that is evaluated on.
      train: that is learned from; None: nothing is.
    """

    source: Source
    train: Source | None = None


@dataclasses.dataclass(frozen=True)
class ModelUnderTest:
    """A model with its weights, and how it is computed. A dataset is embedded once, for all evaluations of it.

    Args:
      embedder: its towers.
      variables: its weights.
      batch_size: rows encoded at once over all devices: as many on each, however many there are, so that an image has
        the same embedding to the bit; fewer on CPUs, which many do not make faster, since the last batch is filled up.
      threads: that decode in each worker.
      workers: processes that decode, as ``config.data.workers``.
      max_pixels: larger images cannot be read.
      report_progress: called before each batch with about how many images are embedded, and of how many.
      objective: that a run is trained by; None: not known.
      training_batch_size: pairs of one step of the run.
      seed: of the run.
      embedded: datasets by their source's ``id``.
    """

    embedder: Embedder
    variables: Variables
    batch_size: int = dataclasses.field(default_factory=lambda: jax.device_count() * _rows_of_device())
    threads: int = 4
    workers: int = -1
    max_pixels: int = MAX_PIXELS
    report_progress: Callable[[int, int], None] = lambda _done, _size: None
    objective: Objective | None = None
    training_batch_size: int = 0
    seed: int = 0
    embedded: dict[int, tuple[Source, Embedded]] = dataclasses.field(default_factory=dict)

    @property
    def scale(self) -> float:
        """What similarities are multiplied by before a softmax over them."""
        return float(np.exp(self.variables["params"]["logit_scale"]))

    def embed(self, source: Source, size: int | None = None) -> Embedded:
        """All records, or at least the first ``size``."""
        size = min(size or len(source), len(source))
        _, known = self.embedded.get(id(source), (source, None))
        if known is None or len(known.records) < size:
            done = itertools.count(0, self.batch_size)
            known = self.embedder.dataset(
                self.variables,
                source,
                size,
                batch_size=self.batch_size,
                threads=self.threads,
                workers=self.workers,
                max_pixels=self.max_pixels,
                check_interrupt=lambda: self.report_progress(min(next(done), size), size),
            )
            self.embedded[id(source)] = source, known
        return known

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit embeddings of texts: float32 ``[n, D]``."""
        return self.embedder.texts(self.variables, texts)

    def unreadable(self, source: Source) -> Metric:
        """How many images of a dataset could not be read when it was embedded."""
        return count(UNREADABLE, len(self.embedded[id(source)][1].unreadable) if id(source) in self.embedded else 0)


@dataclasses.dataclass(frozen=True)
class Evaluation(Settings, abc.ABC):
    """An evaluation: a frozen dataclass of its options, each a `setting` beside the ``"task"`` that names it.

    A subclass checks in ``__post_init__`` which values it cannot have, and raises UserError.
    """

    section = "evaluation.tasks.NAME"

    public_name: ClassVar[str] = ""  # what CLIP_benchmark calls it; empty: it has no such

    @property
    def training_split(self) -> str:
        """The split that it learns from; empty: it learns nothing."""
        return ""

    def check(self, data: Data) -> None:
        """Raises UserError where the data do not hold what it needs; nothing is decoded."""

    @abc.abstractmethod
    def evaluate(self, model: ModelUnderTest, data: Data) -> list[Metric]:
        """The metrics; the first stands for all unless a task names another."""


def classes_of(source: Source) -> Classes:
    """The classes of labelled images.

    Raises:
      UserError: there are none.
    """
    found = ground_truth_of(source).classes
    if found is None:
        raise UserError("the images have captions, and no labels.")
    return found
