"""Zero-shot classification: an image's class is the one whose described name is most similar (Radford et al., 2021)."""

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
_NONE = -1  # predicted of an image that could not be read


@dataclasses.dataclass(frozen=True)
class ZeroShot(Evaluation):
    """Is an image closest to the sentences that describe its class?"""

    public_name = "zeroshot_classification"

    grouped: bool = setting(False, "the worst group of images too, by the groups that the dataset knows", fixed=False)

    def check(self, data: Data) -> None:
        """Needs labels."""
        labels = classes_of(data.source).labels([0])
        if self.grouped:
            _groups(data.source, range(len(data.source)))
            if labels.ndim == 2:
                raise UserError("grouped: expected images of one label each.")

    def evaluate(self, model: ModelUnderTest, data: Data) -> list[Metric]:
        """See `accuracy` and `worst_group`."""
        known = classes_of(data.source)
        texts = class_embeddings(model.texts, known.prompts)
        embedded = model.embed(data.source)
        labels = known.labels(embedded.records)
        metrics = accuracy(embedded.image, texts, labels, model.scale)
        if self.grouped:
            metrics += worst_group(embedded.image, texts, labels, _groups(data.source, embedded.records))
        return metrics


def _groups(source: Source, numbers: Sequence[int]) -> np.ndarray:
    found = ground_truth_of(source).groups
    if found is None:
        raise UserError("grouped: of the images no groups are known, such as a .npy beside each .cls.")
    return found(numbers)


def class_embeddings(encode_texts: Callable[[list[str]], np.ndarray], prompts: Sequence[Sequence[str]]) -> np.ndarray:
    """The normalised mean of the sentences that describe each class: ``[classes, D]``."""
    embeddings = encode_texts([sentence for sentences in prompts for sentence in sentences])
    ends = np.cumsum([len(sentences) for sentences in prompts])
    mean = np.stack([rows.mean(axis=0) for rows in np.split(embeddings, ends[:-1])])
    return mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), np.finfo(np.float32).tiny)


def accuracy(images: np.ndarray, classes: np.ndarray, labels: np.ndarray, scale: float | None = None) -> list[Metric]:
    """Top-1, 3, 5 and 10, the means over classes of top-1 and of F1, guessing, and how well confidence is calibrated.

    Args:
      images: unit rows ``[n, D]``.
      classes: unit rows ``[classes, D]``.
      labels: int ``[n + u]``, those of u images that could not be read, each of which counts as wrong, last; or, where
        an image may have several, zeros and ones ``[n + u, classes]``, of which the mean over classes of the average
        precision is taken instead.
      scale: what similarities are multiplied by before the softmax that gives confidences; None: not calibrated.
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
    shares = zip(_KS, hits.mean(axis=0).tolist(), strict=True)
    return [
        *(
            Metric(f"zero_shot/top_{k}", share if k <= len(classes) else None, public_name=_PUBLIC_NAMES.get(k, ""))
            for k, share in shares
        ),
        Metric("zero_shot/mean_per_class", mean_per_class(hits[:, 0], labels), public_name="mean_per_class_recall"),
        Metric("zero_shot/f1", mean_f1(predicted, labels)),
        Metric("zero_shot/chance", 1 / len(classes), higher_is_better=None),
        *calibration,
    ]


def worst_group(images: np.ndarray, classes: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> list[Metric]:
    """Top-1 and top-5 of the group of images with the smallest.

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
    """As `hits_at`, and none for images that could not be read, which have labels alone."""
    hits = np.zeros((len(labels), len(ks)))
    hits[: len(images)] = hits_at(images, classes, labels[: len(images)], ks)
    return hits


def mean_f1(predicted: np.ndarray, labels: np.ndarray) -> float:
    """The mean over the classes that have images of the harmonic mean of precision and recall."""
    import sklearn.metrics  # here, since importing it takes a second

    there = np.unique(labels)
    return float(sklearn.metrics.f1_score(labels, predicted, labels=there, average="macro", zero_division=0))


def mean_per_class(hits: np.ndarray, labels: np.ndarray) -> float:
    """The mean of each class's share of hits, over the classes that have images."""
    counts = np.bincount(labels)
    return float((np.bincount(labels, hits)[counts > 0] / counts[counts > 0]).mean())


def mean_average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """The mean over classes of the precision at each of its images, by falling score; 0 for classes without one.

    Images beyond the scores, of which labels alone are known, are never found: their precision is 0.
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    right = np.take_along_axis(labels[: len(scores)], order, axis=0)
    precision = np.cumsum(right, axis=0) / np.arange(1, len(right) + 1)[:, None]
    return float(((precision * right).sum(axis=0) / np.maximum(labels.sum(axis=0), 1)).mean())


def expected_calibration_error(confidences: np.ndarray, hits: np.ndarray, bins: int = _BINS) -> float:
    """The mean distance of confidence and accuracy over bins of equal width (Guo et al., 2017); in [0, 1]."""
    confidence, accuracy, counts = in_bins(confidences, hits, bins)
    return float((np.abs(confidence - accuracy) * counts).sum() / len(hits))


def in_bins(confidences: np.ndarray, hits: np.ndarray, bins: int = _BINS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each bin of equal width that has any: the mean confidence, the share of hits, and how many there are."""
    which = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(which, minlength=bins)
    there = counts > 0
    sums = (np.bincount(which, values, bins)[there] for values in (confidences, hits))
    confidence, accuracy = (values / counts[there] for values in sums)
    return confidence, accuracy, counts[there]


def confidences(images: np.ndarray, classes: np.ndarray, scale: float) -> np.ndarray:
    """The probability of the likeliest class: ``[n]``."""
    found = []
    for start in range(0, len(images), _ROWS):
        logits = scale * (images[start : start + _ROWS] @ classes.T)
        found.append(1 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1))
    return np.concatenate(found)
