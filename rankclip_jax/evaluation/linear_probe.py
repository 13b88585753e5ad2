"""A linear probe: logistic regression on frozen embeddings, as in CLIP's paper (Radford et al., 2021, A.3)."""

import dataclasses

import numpy as np

from rankclip_jax.evaluation.evaluation import UNREADABLE, Data, Evaluation, ModelUnderTest, classes_of
from rankclip_jax.evaluation.logistic_regression import LogisticRegression, predict
from rankclip_jax.evaluation.metric import Metric, count
from rankclip_jax.evaluation.zero_shot import mean_per_class
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.setting import COUNT_OR_ZERO, setting

_STRENGTHS = 10.0 ** np.arange(-2, 7)  # inverse weights of the L2 penalty on the first, coarse grid
_BETWEEN = 10.0**0.5  # then tried above and below the best of the grid
_HELD_OUT = 0.2  # fraction of the training images held out to select the penalty


@dataclasses.dataclass(frozen=True)
class LinearProbe(Evaluation):
    """Measures the accuracy of a linear classifier of image embeddings."""

    public_name = "linear_probe"

    train_split: str = setting("train", "the split to train on", fixed=False)
    shots: int = setting(0, "training images of each class; 0: all", COUNT_OR_ZERO, fixed=False)

    @property
    def training_split(self) -> str:
        """The split to train on."""
        return self.train_split

    def check(self, data: Data) -> None:
        """Raises UserError unless each image has one label, and the training images have at least two classes."""
        assert data.train is not None
        test, train = (classes_of(source).labels(range(len(source))) for source in (data.source, data.train))
        if test.ndim == 2 or train.ndim == 2:
            raise UserError(
                "linear_probe: expected one label per image; found several. Use zero_shot for datasets with several "
                "labels per image."
            )
        if len(np.unique(train)) < 2:
            raise UserError(
                "linear_probe: expected training images of at least two classes; found one class. Use another "
                "train_split."
            )

    def evaluate(self, model: ModelUnderTest, data: Data) -> list[Metric]:
        """Returns the metrics of `linear_probe`."""
        assert data.train is not None
        train, test = model.embed(data.train), model.embed(data.source)
        labels = classes_of(data.train).labels(train.index.tolist()), classes_of(data.source).labels(test.records)
        metrics = linear_probe(train.image, labels[0], test.image, labels[1], self.shots)
        return [*metrics, count(f"linear_probe/{UNREADABLE}_of_training", len(train.unreadable))]


def linear_probe(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    shots: int = 0,
    seed: int = 0,
) -> list[Metric]:
    """Returns the accuracy, the mean per-class accuracy, and the inverse penalty selected on held-out training data.

    A fifth of each class, at least one image if it has two, is held out to select the penalty; ties select the
    strongest penalty. The probe is then fitted to all training images.

    Args:
      train: unit rows ``[n, D]``.
      train_labels: int ``[n]``.
      test: unit rows ``[m, D]``.
      test_labels: int ``[m + u]``; the last u are of unreadable images, each of which counts as wrong.
      shots: number of random training images per class; 0: all.
      seed: seed of the random choices.
    """
    rng = np.random.default_rng(seed)
    if shots:
        selected = np.concatenate([rows[:shots] for rows in _by_class(train_labels, rng)])
        train, train_labels = train[selected], train_labels[selected]
    held = np.concatenate([rows[: _held_out(len(rows))] for rows in _by_class(train_labels, rng)])
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
        Metric("linear_probe/top_1", float(hits.mean()), public_name="lp_acc1"),
        Metric(
            "linear_probe/mean_per_class",
            mean_per_class(hits, test_labels),
            public_name="lp_mean_per_class_recall",
        ),
        Metric("linear_probe/inverse_penalty", strength, "", None),
    ]


def _by_class(labels: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Returns the rows of each class in random order."""
    order = rng.permutation(len(labels))
    return [order[labels[order] == label] for label in np.unique(labels)]


def _held_out(count: int) -> int:
    return 0 if count < 2 else max(round(_HELD_OUT * count), 1)
