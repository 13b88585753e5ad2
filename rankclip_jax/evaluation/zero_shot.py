"""Zero-shot classification: an image's class is the one with the most similar prompts (Radford et al., 2021)."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from rankclip_jax.evaluation.evaluation import Data, Evaluation, ModelUnderTest, classes_of
from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.evaluation.recall import hits_at
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.setting import setting
from rankclip_jax.input_pipeline.source import Source, ground_truth_of

_KS = (1, 3, 5, 10)
_PUBLIC_NAMES = {1: "acc1", 5: "acc5"}
_BINS = 15
_ROWS = 4096
_NONE = -1  # prediction for an unreadable image


@dataclasses.dataclass(frozen=True)
class ZeroShot(Evaluation):
    """Measures how often an image is closest to the prompts of its class."""

    public_name = "zeroshot_classification"

    grouped: bool = setting(False, "report the worst group too, by the groups of the dataset", fixed=False)

    def check(self, data: Data) -> None:
        """Raises UserError unless the images have labels, and for ``grouped`` one label each and groups."""
        labels = classes_of(data.source).labels([0])
        if self.grouped:
            _groups(data.source, range(len(data.source)))
            if labels.ndim == 2:
                raise UserError(
                    "grouped: expected one label per image; found several. Use grouped=false for this dataset."
                )

    def evaluate(self, model: ModelUnderTest, data: Data) -> list[Metric]:
        """Returns the metrics of `accuracy` and `worst_group`."""
        classes = classes_of(data.source)
        texts = class_embeddings(model.texts, classes.prompts)
        embedded = model.embed(data.source)
        labels = classes.labels(embedded.records)
        metrics = accuracy(embedded.image, texts, labels, model.scale)
        if self.grouped:
            metrics += worst_group(embedded.image, texts, labels, _groups(data.source, embedded.records))
        return metrics


def _groups(source: Source, numbers: Sequence[int]) -> np.ndarray:
    groups = ground_truth_of(source).groups
    if groups is None:
        raise UserError(
            "grouped: expected a dataset with groups, such as a .npy next to each .cls; found none. Use grouped=false."
        )
    return groups(numbers)


def class_embeddings(encode_texts: Callable[[list[str]], np.ndarray], prompts: Sequence[Sequence[str]]) -> np.ndarray:
    """Returns the normalised mean embedding of each class's prompts: ``[classes, D]``."""
    embeddings = encode_texts([sentence for sentences in prompts for sentence in sentences])
    ends = np.cumsum([len(sentences) for sentences in prompts])
    mean = np.stack([rows.mean(axis=0) for rows in np.split(embeddings, ends[:-1])])
    return mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), np.finfo(np.float32).tiny)


def accuracy(images: np.ndarray, classes: np.ndarray, labels: np.ndarray, scale: float | None = None) -> list[Metric]:
    """Returns top-1, 3, 5 and 10 accuracy, per-class means of top-1 and F1, chance, and the calibration error.

    Args:
      images: unit rows ``[n, D]``.
      classes: unit rows ``[classes, D]``.
      labels: int ``[n + u]``; the last u are of unreadable images, each of which counts as wrong. With several labels
        per image, zeros and ones ``[n + u, classes]``: then only the mean average precision over classes is returned.
      scale: the multiplier of similarities before the softmax that gives confidences; None: no calibration error.
    """
    if labels.ndim == 2:
        precision = mean_average_precision(images @ classes.T, labels)
        return [Metric("zero_shot/mean_average_precision", precision, public_name="mean_average_precision")]
    hits = _hits(images, classes, labels, _KS)
    predicted = np.full(len(labels), _NONE)
    predicted[: len(images)] = np.argmax(images @ classes.T, axis=1)
    calibration = []
    if scale is not None:
        error = expected_calibration_error(confidences(images, classes, scale), hits[: len(images), 0])
        calibration.append(Metric("zero_shot/calibration_error", error, higher_is_better=False))
    return [
        *(
            Metric(f"zero_shot/top_{k}", float(right.mean()), public_name=_PUBLIC_NAMES.get(k, ""), samples=right)
            if k <= len(classes)
            else Metric(f"zero_shot/top_{k}", None, public_name=_PUBLIC_NAMES.get(k, ""))
            for k, right in zip(_KS, hits.T, strict=True)
        ),
        Metric("zero_shot/mean_per_class", mean_per_class(hits[:, 0], labels), public_name="mean_per_class_recall"),
        Metric("zero_shot/f1", mean_f1(predicted, labels)),
        Metric("zero_shot/chance", 1 / len(classes), higher_is_better=None),
        *calibration,
    ]


def worst_group(images: np.ndarray, classes: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> list[Metric]:
    """Returns the top-1 and top-5 accuracy of the worst group of images.

    Args:
      images: unit rows ``[n, D]``.
      classes: unit rows ``[classes, D]``.
      labels: int ``[n + u]``, see `accuracy`.
      groups: int ``[n + u]``.
    """
    ks = (1, 5)
    hits = _hits(images, classes, labels, ks)
    means = [hits[groups == group].mean(axis=0) for group in np.unique(groups)]
    return [
        Metric(f"zero_shot/worst_group_top_{k}", float(worst) if k <= len(classes) else None)
        for k, worst in zip(ks, np.min(means, axis=0), strict=True)
    ]


def _hits(images: np.ndarray, classes: np.ndarray, labels: np.ndarray, ks: Sequence[int]) -> np.ndarray:
    """Returns `hits_at`, with zeros for unreadable images, which have labels but no embedding."""
    hits = np.zeros((len(labels), len(ks)))
    hits[: len(images)] = hits_at(images, classes, labels[: len(images)], ks)
    return hits


def mean_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Returns the macro F1 score over the classes that have images."""
    import sklearn.metrics  # here, since importing it takes a second

    present = np.unique(labels)
    return float(sklearn.metrics.f1_score(labels, predicted, labels=present, average="macro", zero_division=0))


def mean_per_class(hits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean per-class accuracy over the classes that have images."""
    counts = np.bincount(labels)
    return float((np.bincount(labels, hits)[counts > 0] / counts[counts > 0]).mean())


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean over classes of the average precision; 0 for classes without images.

    Images without scores, which have only labels, are never retrieved: their precision is 0.
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    right = np.take_along_axis(labels[: len(scores)], order, axis=0)
    precision = np.cumsum(right, axis=0) / np.arange(1, len(right) + 1)[:, None]
    return float(((precision * right).sum(axis=0) / np.maximum(labels.sum(axis=0), 1)).mean())


def expected_calibration_error(confidences: np.ndarray, hits: np.ndarray, bins: int = _BINS) -> float:
    """Returns the mean difference of confidence and accuracy over bins of equal width (Guo et al., 2017)."""
    confidence, accuracy, counts = in_bins(confidences, hits, bins)
    return float((np.abs(confidence - accuracy) * counts).sum() / len(hits))


def in_bins(confidences: np.ndarray, hits: np.ndarray, bins: int = _BINS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns mean confidence, accuracy and count of each non-empty bin of equal width."""
    bin_of_image = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(bin_of_image, minlength=bins)
    nonempty = counts > 0
    sums = (np.bincount(bin_of_image, values, bins)[nonempty] for values in (confidences, hits))
    confidence, accuracy = (values / counts[nonempty] for values in sums)
    return confidence, accuracy, counts[nonempty]


def confidences(images: np.ndarray, classes: np.ndarray, scale: float) -> np.ndarray:
    """Returns the probability of the most probable class: ``[n]``."""
    blocks = []
    for start in range(0, len(images), _ROWS):
        logits = scale * (images[start : start + _ROWS] @ classes.T)
        blocks.append(1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1))
    return np.concatenate(blocks)
