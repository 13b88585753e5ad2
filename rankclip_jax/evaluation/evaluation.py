"""The interface of an evaluation: the model and data that it receives, and the metrics that it returns.

An evaluation is one file with a subclass of `Evaluation`. Register it with a row of `EVALUATIONS` in ``tasks.py``, or
select it with ``"task": "package.module:Name"`` in ``config.evaluation.tasks``.
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
      source: the data to evaluate on.
      train: the data to learn from; None: the evaluation learns nothing.
    """

    source: Source
    train: Source | None = None


@dataclasses.dataclass(frozen=True)
class ModelUnderTest:
    """A model with its weights and execution options; caches the embeddings of each dataset for all its evaluations.

    Args:
      embedder: the encoders.
      variables: the weights.
      batch_size: rows encoded at once over all devices. The number per device is fixed, so that embeddings are the same
        to the bit for any number of devices. It is smaller on CPUs, where larger batches are not faster and the last
        batch is padded.
      threads: decoding threads of each worker.
      workers: decoding processes, as ``config.data.workers``.
      max_pixels: larger images count as unreadable.
      report_progress: called before each batch with the approximate number of embedded images and their total.
      objective: the run's training objective; None: unknown.
      training_batch_size: the run's global batch size.
      seed: the run's seed.
      embedded: cached embeddings, by the ``id`` of their source.
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
        """The multiplier of similarities before a softmax."""
        return float(np.exp(self.variables["params"]["logit_scale"]))

    def embed(self, source: Source, size: int | None = None) -> Embedded:
        """Returns the embeddings of all records, or of at least the first ``size``."""
        size = min(size or len(source), len(source))
        _, embedded = self.embedded.get(id(source), (source, None))
        if embedded is None or len(embedded.records) < size:
            done = itertools.count(0, self.batch_size)
            embedded = self.embedder.dataset(
                self.variables,
                source,
                size,
                batch_size=self.batch_size,
                threads=self.threads,
                workers=self.workers,
                max_pixels=self.max_pixels,
                check_interrupt=lambda: self.report_progress(min(next(done), size), size),
            )
            self.embedded[id(source)] = source, embedded
        return embedded

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Returns unit embeddings of texts: float32 ``[n, D]``."""
        return self.embedder.texts(self.variables, texts)

    def unreadable(self, source: Source) -> Metric:
        """Returns the number of a dataset's images that were unreadable when it was embedded."""
        return count(UNREADABLE, len(self.embedded[id(source)][1].unreadable) if id(source) in self.embedded else 0)


@dataclasses.dataclass(frozen=True)
class Evaluation(Settings, abc.ABC):
    """An evaluation: a frozen dataclass of its options, each a `setting` next to the ``"task"`` that names it.

    A subclass validates its options in ``__post_init__`` and raises UserError for unsupported values.
    """

    section = "evaluation.tasks.NAME"

    public_name: ClassVar[str] = ""  # its name in CLIP_benchmark; empty: not in CLIP_benchmark

    @property
    def training_split(self) -> str:
        """The split to learn from; empty: the evaluation learns nothing."""
        return ""

    def check(self, data: Data) -> None:
        """Raises UserError if the data lack what the evaluation needs; decodes no images."""

    @abc.abstractmethod
    def evaluate(self, model: ModelUnderTest, data: Data) -> list[Metric]:
        """Returns the metrics; the first is the main metric unless a task names another."""


def classes_of(source: Source) -> Classes:
    """Returns the classes of labelled images.

    Raises:
      UserError: the images have no labels.
    """
    classes = ground_truth_of(source).classes
    if classes is None:
        raise UserError(
            "expected images with labels; found images with captions only. Use a dataset with labels, or another task."
        )
    return classes
