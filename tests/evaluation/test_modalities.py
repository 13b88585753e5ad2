"""Agreement of modalities, calibration, precision and the probe, against SciPy, scikit-learn and definitions."""

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
import sklearn.linear_model
import sklearn.metrics

from rankclip_jax.evaluation import zero_shot
from rankclip_jax.evaluation.association import association
from rankclip_jax.evaluation.compositionality import compositionality
from rankclip_jax.evaluation.linear_probe import linear_probe
from rankclip_jax.evaluation.modalities import consistency, geometry
from rankclip_jax.input_pipeline.source import Choice
from tests.evaluation.test_metrics import unit, values


@pytest.mark.parametrize("count", [3, 7, 40])
def test_orders_agree_as_scipy_says(count):
    x, t = unit(0, count, 8).astype(np.float64), unit(1, count, 8).astype(np.float64)
    found = values(consistency(x, t))
    for name, (first, second) in {"cross_modal": (x @ t.T, t @ x.T), "in_modal": (x @ x.T, t @ t.T)}.items():
        rows = [(np.delete(first[row], row), np.delete(second[row], row)) for row in range(count)]
        taus = [scipy.stats.kendalltau(*row).statistic for row in rows]
        spearmans = [scipy.stats.spearmanr(*row).statistic for row in rows]
        shared = [len(set(np.argsort(-a)[:10]) & set(np.argsort(-b)[:10])) / min(10, count - 1) for a, b in rows]
        assert found[f"consistency/{name}/kendall_tau"] == pytest.approx(np.mean(taus), abs=1e-6)
        assert found[f"consistency/{name}/spearman"] == pytest.approx(np.mean(spearmans), abs=1e-6)
        assert found[f"consistency/{name}/overlap_10"] == pytest.approx(np.mean(shared), abs=1e-6)


def test_modalities_that_are_the_same_agree_wholly_and_a_collapsed_one_not_at_all():
    x = unit(0, 20, 8)
    found = values(consistency(x, x))
    assert all(value == pytest.approx(1, abs=1e-6) for value in found.values())
    found = values(consistency(x, np.ones((20, 8), np.float32) / 8**0.5))
    assert found["consistency/in_modal/kendall_tau"] == found["consistency/in_modal/spearman"] == 0
    assert set(values(consistency(x[:2], x[:2])).values()) == {None}


def test_geometry_is_its_definition():
    x, t = unit(0, 30, 8).astype(np.float64), unit(1, 30, 8).astype(np.float64)
    found = values(geometry(x, t))
    assert found["geometry/modality_gap"] == pytest.approx(scipy.spatial.distance.euclidean(x.mean(0), t.mean(0)))
    assert found["geometry/alignment"] == pytest.approx(np.mean(np.linalg.norm(x - t, axis=1) ** 2))
    for kind, rows in (("image", x), ("text", t)):
        distances = scipy.spatial.distance.pdist(rows, "sqeuclidean")
        assert found[f"geometry/uniformity_{kind}"] == pytest.approx(np.log(np.mean(np.exp(-2 * distances))))


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_a_class_counts_as_much_as_another_however_many_images_it_has():
    images, classes = unit(0, 200, 8), unit(1, 6, 8)
    labels = np.random.default_rng(2).choice(6, 200, p=[0.5, 0.3, 0.1, 0.06, 0.04, 0])
    expected = sklearn.metrics.balanced_accuracy_score(labels, (images @ classes.T).argmax(1))
    found = values(zero_shot.accuracy(images, classes, labels))
    assert found["zero_shot/mean_per_class"] == pytest.approx(expected, abs=1e-6)
    assert found["zero_shot/top_10"] is None


def test_average_precision_is_scikit_learns():
    scores, labels = unit(0, 50, 5), np.random.default_rng(1).integers(0, 2, (50, 5))
    expected = sklearn.metrics.average_precision_score(labels, scores, average="macro")
    assert zero_shot.mean_average_precision(scores, labels) == pytest.approx(expected, abs=1e-6)


def test_the_calibration_error_is_its_definition():
    images, classes = unit(0, 500, 4), unit(1, 5, 4)
    labels = np.random.default_rng(2).integers(0, 5, 500)
    logits = 20.0 * (images.astype(np.float64) @ classes.T)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    found = values(zero_shot.accuracy(images, classes, labels, scale=20.0))
    assert found["zero_shot/calibration_error"] == pytest.approx(expected, abs=1e-6)
    assert zero_shot.expected_calibration_error(np.ones(4), np.ones(4)) == 0


def test_half_a_point_for_a_caption_that_is_as_close():
    images, texts = np.eye(3), np.zeros((3, 2, 3))
    texts[0, 0, 0] = texts[1, 1, 1] = 1
    assert values(compositionality(images, texts)) == {"compositionality/accuracy": pytest.approx((1 + 0 + 0.5) / 3)}


def test_chosen_images_are_compared_as_scikit_learn_does():
    rng = np.random.default_rng(0)
    images, cues = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in rng.normal(size=(2, 40, 6)))
    scores, sizes, choices = [], [5, 6, 12, 5] * 10, []
    for cue, size in zip(cues, sizes, strict=True):
        among = rng.choice(40, size, replace=False)
        right = np.isin(np.arange(size), rng.choice(size, rng.integers(1, 4), replace=False))
        similarity = np.asarray([images[one] @ cue for one in among])
        least = np.sort(similarity)[size - right.sum()]
        scores.append(sklearn.metrics.jaccard_score(right, similarity >= least))
        choices.append(Choice("cue", tuple(among.tolist()), tuple(right.tolist())))
    found = values(association(images, cues, choices))
    assert found["association/jaccard"] == pytest.approx(np.mean(scores), abs=1e-12)
    means = {size: np.mean([score for score, one in zip(scores, sizes, strict=True) if one == size]) for size in (5, 6)}
    assert found["association/jaccard_5"] == pytest.approx(means[5], abs=1e-12)
    assert found["association/jaccard_5-6"] == pytest.approx((2 * means[5] + means[6]) / 3, abs=1e-12)
    assert found["association/jaccard_10"] is None


def clusters(seed, count, centres):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, len(centres), count)
    rows = centres[labels] + rng.normal(0, 0.35, (count, centres.shape[1]))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


def test_the_probe_is_scikit_learns_at_the_penalty_that_it_chose():
    centres = unit(5, 6, 16)
    train, test = clusters(0, 400, centres), clusters(1, 1000, centres)
    found = values(linear_probe(*train, *test))
    # Of as many steps and digits as it takes to converge.
    solver = sklearn.linear_model.LogisticRegression(
        C=found["linear_probe/inverse_penalty"], solver="newton-cholesky", tol=1e-12, max_iter=1000
    )
    theirs = solver.fit(train[0].astype(np.float64), train[1])
    assert found["linear_probe/top_1"] == pytest.approx(theirs.score(*test), abs=1e-12)
    balanced = sklearn.metrics.balanced_accuracy_score(test[1], theirs.predict(test[0]))
    assert found["linear_probe/mean_per_class"] == pytest.approx(balanced, abs=1e-12)
    scores = [sklearn.linear_model.LogisticRegression(C=c, max_iter=1000).fit(*train).score(*test) for c in (1e-2, 1e6)]
    assert found["linear_probe/top_1"] >= max(scores)


@pytest.mark.parametrize("shots", [1, 2, 5])
def test_few_shots_are_so_many_of_each_class(shots, monkeypatch):
    from rankclip_jax.evaluation import linear_probe as module

    seen = []

    class Seen(module.LogisticRegression):
        def __init__(self, rows, labels):
            seen.append(np.bincount(labels))
            super().__init__(rows, labels)

    monkeypatch.setattr(module, "LogisticRegression", Seen)
    centres = unit(5, 4, 16)
    values(linear_probe(*clusters(0, 200, centres), *clusters(1, 50, centres), shots=shots))
    assert [counts.tolist() for counts in seen] == [[shots] * 4]
