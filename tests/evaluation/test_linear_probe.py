"""The linear probe against scikit-learn's converged optimum."""

import numpy as np
import pytest
import sklearn.linear_model

from rankclip_jax.evaluation import linear_probe as probing
from rankclip_jax.evaluation import logistic_regression
from rankclip_jax.evaluation.logistic_regression import LogisticRegression, Probe


def embeddings(count, classes, width=24, noise=2.0, seed=0):
    """Unit rows in a cone, of variances over orders of magnitude, as models give them; and labels."""
    rng = np.random.default_rng(seed)
    scales = 1 / (1 + np.arange(width))
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, count - classes)])
    rows = rng.normal(size=(classes, width))[labels] + noise * rng.normal(size=(count, width))
    rows = rng.normal(size=width) + rows * scales
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


def theirs(rows, labels, strength, solver="newton-cholesky"):
    """Of more steps and digits than it takes by itself."""
    solver = sklearn.linear_model.LogisticRegression(C=strength, solver=solver, tol=1e-12, max_iter=10_000)
    return solver.fit(rows.astype(np.float64), labels)


@pytest.mark.parametrize("strength", [0.01, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("classes", [2, 7])
def test_the_optimum_is_scikit_learns(classes, strength):
    rows, labels = embeddings(400, classes)
    found, expected = LogisticRegression(rows, labels).fit(strength), theirs(rows, labels, strength)
    weights, bias = expected.coef_, expected.intercept_
    if classes == 2:  # one vector there, the difference of ours
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    weights, bias = weights - weights.mean(axis=0), bias - bias.mean()
    np.testing.assert_allclose(found.weights.T, weights, atol=1e-5 * np.abs(weights).max())
    np.testing.assert_allclose(found.bias, bias, atol=1e-5 * np.abs(bias).max())
    assert (logistic_regression.predict(found, rows) == expected.predict(rows)).all()


@pytest.mark.parametrize("noise", [0.3, 3.0])  # classes that can be told apart by a plane, and some that cannot
def test_the_probe_is_that_of_scikit_learn(noise, monkeypatch):
    rows, labels = embeddings(360, 6, noise=noise)
    data = rows[:240], labels[:240], rows[240:], labels[240:]
    found = probing.linear_probe(*data)

    class Theirs:
        def __init__(self, rows, labels):
            self.rows, self.labels = rows, labels

        def fit(self, strength, chosen=slice(None)):
            found = theirs(self.rows[chosen], self.labels[chosen], strength)
            return Probe(found.coef_.T, found.intercept_)

    monkeypatch.setattr(probing, "LogisticRegression", Theirs)
    assert found == probing.linear_probe(*data)


def test_noise_of_a_ten_millionth_does_not_move_the_chosen_penalty():
    rows, labels = embeddings(700, 20)
    first = probing.linear_probe(rows[:500], labels[:500], rows[500:], labels[500:])
    for seed in range(3):
        moved = (rows + 1e-7 * np.random.default_rng(seed).normal(size=rows.shape)).astype(np.float32)
        assert probing.linear_probe(moved[:500], labels[:500], rows[500:], labels[500:]) == first


def test_blocks_of_rows_do_not_change_the_optimum(monkeypatch):
    rows, labels = embeddings(101, 3)
    some = np.arange(101) % 4 > 0
    whole = LogisticRegression(rows, labels).fit(100.0, some)
    monkeypatch.setattr(logistic_regression, "_ENTRIES", 3 * 13)
    found = LogisticRegression(rows, labels).fit(100.0, some)
    np.testing.assert_allclose(found.weights, whole.weights, atol=1e-6 * np.abs(whole.weights).max())
    apart = LogisticRegression(rows[some], labels[some]).fit(100.0)
    np.testing.assert_allclose(found.weights, apart.weights, atol=1e-6 * np.abs(whole.weights).max())
    np.testing.assert_array_equal(logistic_regression.predict(found, rows), logistic_regression.predict(whole, rows))


@pytest.mark.parametrize(
    "rows",
    [np.eye(4, 9)[[0, 1, 2, 3, 0, 1]], np.ones((6, 3)) / 3**0.5, np.zeros((6, 5))],
    ids=["more features than rows", "all alike", "nothing"],
)
def test_rows_that_say_little_are_fitted_too(rows):
    labels = np.array([0, 1, 2, 0, 1, 2])
    for strength in (0.01, 1e6):
        found, expected = LogisticRegression(rows, labels).fit(strength), theirs(rows, labels, strength, "lbfgs")
        np.testing.assert_allclose(
            rows @ found.weights + found.bias, expected.decision_function(rows), atol=1e-4 * (1 + strength**0.25)
        )


def test_images_that_cannot_be_read_count_as_wrong_and_classes_need_no_numbers_from_zero():
    rows, labels = embeddings(200, 3, noise=0.2)
    labels = 10 * labels + 5
    found = probing.linear_probe(rows[:150], labels[:150], rows[150:], labels[150:])
    assert found[0][:3] == ("linear_probe/top_1", 1.0, "share")
    fewer = probing.linear_probe(rows[:150], labels[:150], rows[150:190], labels[150:])
    assert fewer[0].value == pytest.approx(40 / 50)
