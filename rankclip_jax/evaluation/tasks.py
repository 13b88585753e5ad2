"""What can be measured of a model on a dataset: what the data must hold, and how it is done."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from rankclip_jax.evaluation import modalities
from rankclip_jax.evaluation.association import association
from rankclip_jax.evaluation.compositionality import compositionality
from rankclip_jax.evaluation.embedder import Embedded, Embedder
from rankclip_jax.evaluation.linear_probe import linear_probe
from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.evaluation.retrieval import retrieval
from rankclip_jax.evaluation.zero_shot import accuracy, class_embeddings, worst_group
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.source import Classes, Source, captions, ground_truth_of
from rankclip_jax.models.clip import Variables

PAIRS = 512  # of which the consistency of orders is taken
UNREADABLE = "unreadable_images"


def _rows_of_device() -> int:
    return 32 if jax.default_backend() == "cpu" else 256


@dataclasses.dataclass(frozen=True)
class ModelUnderTest:
    """A model that is measured.

    Args:
      embedder: its towers.
      variables: its weights.
      batch_size: rows encoded at once over all devices: as many on each, however many there are, so that an image has
        the same embedding to the bit; fewer on CPUs, which many do not make faster, since the last batch is filled up.
      threads: that decode in each worker.
      workers: processes that decode, as ``config.data.workers``.
      tell: called before each batch with about how many images are embedded, and of how many.
    """

    embedder: Embedder
    variables: Variables
    batch_size: int = dataclasses.field(default_factory=lambda: jax.device_count() * _rows_of_device())
    threads: int = 4
    workers: int = -1
    tell: Callable[[int, int], None] = lambda _done, _size: None

    @property
    def scale(self) -> float:
        """What similarities are multiplied by before a softmax over them."""
        return float(np.exp(self.variables["params"]["logit_scale"]))

    def embed(self, source: Source, size: int | None = None) -> Embedded:
        """All records, or the first ``size``."""
        size, done = min(size or len(source), len(source)), itertools.count(0, self.batch_size)
        return self.embedder.dataset(
            self.variables,
            source,
            size,
            batch_size=self.batch_size,
            threads=self.threads,
            workers=self.workers,
            check_interrupt=lambda: self.tell(min(next(done), size), size),
        )


@dataclasses.dataclass(frozen=True)
class Data:
    """What a task is given.

    Args:
      source: that is measured on.
      train: that a probe learns from; None: the task does not learn.
      shots: of each class; 0: all.
      shared_captions: whether captions that read the same are one, of several images.
      grouped: whether the worst group of images is told.
    """

    source: Source
    train: Source | None = None
    shots: int = 0
    shared_captions: bool = False
    grouped: bool = False


def _zero_shot(measured: ModelUnderTest, data: Data) -> list[Metric]:
    known = _classes(data.source)
    texts = class_embeddings(lambda sentences: measured.embedder.texts(measured.variables, sentences), known.prompts)
    embedded = measured.embed(data.source)
    labels = known.labels(embedded.records)
    metrics = accuracy(embedded.image, texts, labels, measured.scale)
    if data.grouped:
        metrics += worst_group(embedded.image, texts, labels, _groups(data.source, embedded.records))
    return [*metrics, unreadable_images(embedded)]


def _retrieval(measured: ModelUnderTest, data: Data) -> list[Metric]:
    embedded = measured.embed(data.source)
    return [*retrieval_of(embedded, data.shared_captions), unreadable_images(embedded)]


def retrieval_of(embedded: Embedded, shared_captions: bool = False) -> list[Metric]:
    """Retrieval among all records, those whose image could not be read too."""
    texts, owners, sentence = embedded.text, embedded.image_of_text, embedded.sentence
    if orphans := len(embedded.unreadable_text):
        texts = np.concatenate([texts, embedded.unreadable_text])
        owners = np.concatenate([owners, np.full(orphans, -1)])
        sentence = np.concatenate([sentence, embedded.unreadable_sentence])
    return retrieval(
        embedded.image, texts, owners, sentence if shared_captions else None, unreadable=len(embedded.unreadable)
    )


def unreadable_images(embedded: Embedded) -> Metric:
    """How many of the images that were to be measured could not be read."""
    return Metric(UNREADABLE, len(embedded.unreadable), "count")


def _linear_probe(measured: ModelUnderTest, data: Data) -> list[Metric]:
    assert data.train is not None
    train, test = measured.embed(data.train), measured.embed(data.source)
    labels = _classes(data.train).labels(train.index.tolist()), _classes(data.source).labels(test.records)
    metrics = linear_probe(train.image, labels[0], test.image, labels[1], data.shots)
    of_train = Metric(f"linear_probe/{UNREADABLE}_of_training", len(train.unreadable), "count")
    return [*metrics, of_train, unreadable_images(test)]


def _compositionality(measured: ModelUnderTest, data: Data) -> list[Metric]:
    embedded = measured.embed(data.source)
    if (np.bincount(embedded.image_of_text) != 2).any():
        raise UserError("an image has not two captions, the right one and a wrong one.")
    texts = embedded.text.reshape(len(embedded.image), 2, -1)
    return [*compositionality(embedded.image, texts, len(embedded.unreadable)), unreadable_images(embedded)]


def _association(measured: ModelUnderTest, data: Data) -> list[Metric]:
    embedded, choices = measured.embed(data.source), ground_truth_of(data.source).choices
    if len(embedded.index) < len(data.source):
        raise UserError(
            f"{len(data.source) - len(embedded.index)} images cannot be read, among which are to be chosen."
        )
    cues = measured.embedder.texts(measured.variables, [choice.cue for choice in choices])
    return [*association(embedded.image[np.argsort(embedded.index)], cues, choices), unreadable_images(embedded)]


def _consistency(measured: ModelUnderTest, data: Data) -> list[Metric]:
    embedded = measured.embed(data.source, PAIRS)
    return [*agreement(embedded), unreadable_images(embedded)]


def agreement(embedded: Embedded) -> list[Metric]:
    """Consistency of the first pairs' orders, and how the embeddings of these pairs lie."""
    pairs = embedded.image[:PAIRS], embedded.first_text[:PAIRS]
    return [*modalities.consistency(*pairs), *modalities.geometry(*pairs)]


TASKS: dict[str, Callable[[ModelUnderTest, Data], list[Metric]]] = {
    "zero_shot": _zero_shot,
    "retrieval": _retrieval,
    "linear_probe": _linear_probe,
    "compositionality": _compositionality,
    "association": _association,
    "consistency": _consistency,
}


def check(task: str, data: Data) -> None:
    """Raises UserError where the data do not hold what the task needs; nothing is decoded."""
    match task:
        case "zero_shot":
            labels = _classes(data.source).labels([0])
            if data.grouped:
                _groups(data.source, range(len(data.source)))
                if labels.ndim == 2:
                    raise UserError("grouped: expected images of one label each.")
        case "linear_probe":
            assert data.train is not None
            test, train = (_classes(source).labels(range(len(source))) for source in (data.source, data.train))
            if test.ndim == 2 or train.ndim == 2:
                raise UserError("images with several labels cannot be learned by a linear probe here.")
            if len(np.unique(train)) < 2:
                raise UserError("the training images are all of one class: there is nothing to learn.")
        case "compositionality":
            if any(len(captions(data.source[number])) != 2 for number in (0, len(data.source) - 1)):
                raise UserError("expected two captions an image, the right one and a wrong one, as sugar_crepe has.")
        case "association":
            if not ground_truth_of(data.source).choices:
                raise UserError("expected sets of images to choose among, as winogavil has.")
        case _:
            if not captions(data.source[0]):
                raise UserError("the images have labels, and no captions to find.")


def _groups(source: Source, numbers: Sequence[int]) -> np.ndarray:
    found = ground_truth_of(source).groups
    if found is None:
        raise UserError("grouped: of the images no groups are known, such as a .npy beside each .cls.")
    return found(numbers)


def _classes(source: Source) -> Classes:
    found = ground_truth_of(source).classes
    if found is None:
        raise UserError("the images have captions, and no labels.")
    return found
