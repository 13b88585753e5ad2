"""A linear probe: logistic regression on frozen embeddings, as CLIP's paper takes it (Radford et al., 2021, A.3)."""

import numpy as np

from rankclip_jax.evaluation.logistic_regression import LogisticRegression, predict
from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.evaluation.zero_shot import mean_per_class

_STRENGTHS = 10.0 ** np.arange(-2, 7)  # inverse weights of the L2 penalty that are tried, then those between the best
_BETWEEN = 10.0**0.5
_HELD_OUT = 0.2  # of the training images, to choose by


def linear_probe(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    shots: int = 0,
    seed: int = 0,
) -> list[Metric]:
    """Accuracy, its mean over classes, and the penalty's inverse weight, chosen on a part of the training data.

    Each class gives a fifth of its images, at least one where it has two, to choose by; of penalties that are as good
    the strongest is taken. The probe is then fitted to all.

    Args:
      train: unit rows ``[n, D]``.
      train_labels: int ``[n]``.
      test: unit rows ``[m, D]``.
      test_labels: int ``[m + u]``, those of u images that could not be read, each of which counts as wrong, last.
      shots: training images of each class, drawn at random; 0: all.
      seed: of what is drawn.
    """
    rng = np.random.default_rng(seed)
    if shots:
        few = np.concatenate([found[:shots] for found in _by_class(train_labels, rng)])
        train, train_labels = train[few], train_labels[few]
    held = np.concatenate([found[: _held_out(len(found))] for found in _by_class(train_labels, rng)])
    rest = np.ones(len(train), bool)
    rest[held] = False
    classes, numbers = np.unique(train_labels, return_inverse=True)
    regression = LogisticRegression(train, numbers)

    def score(strength: float) -> float:
        return float(np.mean(predict(regression.fit(strength, rest), train[held]) == numbers[held]))

    strength = 1.0
    if held.size:
        scores = {strength: score(strength) for strength in _STRENGTHS.tolist()}
        best = max(scores, key=scores.__getitem__)
        scores |= {other: score(other) for other in (best * _BETWEEN, best / _BETWEEN)}
        strength = max(sorted(scores), key=scores.__getitem__)
    hits = np.zeros(len(test_labels))
    hits[: len(test)] = classes[predict(regression.fit(strength), test)] == test_labels[: len(test)]
    return [
        Metric("linear_probe/top_1", float(hits.mean())),
        Metric("linear_probe/mean_per_class", mean_per_class(hits, test_labels)),
        Metric("linear_probe/inverse_penalty", strength, ""),
    ]


def _by_class(labels: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """The rows of each class, in random order."""
    order = rng.permutation(len(labels))
    return [order[labels[order] == label] for label in np.unique(labels)]


def _held_out(count: int) -> int:
    return 0 if count < 2 else max(round(_HELD_OUT * count), 1)
