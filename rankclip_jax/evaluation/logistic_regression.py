"""Multinomial logistic regression with an L2 penalty, solved to convergence: scikit-learn's objective and optimum.

    f(W, b) = mean_i CE(softmax(x_i W + b), y_i) + ||W||^2 / (2 C n)

The solver is Newton's method. Each step is found by conjugate gradients with Hessian-vector products in float32,
preconditioned by ``(mean_i p_ik (1 - p_ik) variance_d + 1 / (C n))`` in the basis of the features' principal
components. The preconditioner removes what slows down L-BFGS on embeddings: their variances span many orders of
magnitude. Loss and gradient, which determine the optimum, are float64. Rows are processed in blocks, so that besides
the features only the probabilities, float32 ``[n, K]``, are stored, whatever the number of penalties.
"""

import contextlib
from collections.abc import Generator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Tolerance of the Newton decrement, which is twice the excess of the loss over its minimum. The first step with a
# smaller decrement is the last, and leaves about a thousandth of it.
TOLERANCE = 1e-10
_ENTRIES = 1 << 23  # logits of a block
_LOOSEST = 0.3  # largest relative residual of conjugate gradients
_MOST_STEPS, _MOST_PRODUCTS, _MOST_HALVINGS = 100, 500, 30
_SMALLEST_CURVATURE = 1e-12  # for classes that are separated with certainty
_EXACT = jax.lax.Precision.HIGHEST


class Probe(NamedTuple):
    """A linear classifier with logits ``x @ weights + bias``: float64 ``[D, K]`` and ``[K]``."""

    weights: np.ndarray
    bias: np.ndarray


class _Rows(NamedTuple):
    """All rows in blocks; the last block is padded with rows of weight 0."""

    features: jax.Array  # float32 [blocks, rows, D]
    components: jax.Array  # float32 [blocks, rows, D], centred, in the basis of principal components
    labels: jax.Array  # int32 [blocks, rows]
    share: jax.Array  # float64 [blocks, rows], weights of the rows in the mean; they sum to 1


class _Basis(NamedTuple):
    """The basis of the principal components."""

    center: jax.Array  # float64 [D]
    axes: jax.Array  # float64 [D, D], one component per column
    variance: jax.Array  # float64 [D]


class _Point(NamedTuple):
    """Parameters of the classifier, and the loss and its derivatives there."""

    place: jax.Array  # [D + 1, K], weights in the basis, and in the last row the bias for centred rows
    loss: jax.Array
    gradient: jax.Array  # [D + 1, K]
    probability: jax.Array  # float32 [blocks, rows, K]
    curvature: jax.Array  # [K], mean of p (1 - p)


class LogisticRegression:
    """Fits classifiers to subsets of rows, each warm-started from the fit with the nearest penalty.

    Every process computes the same fit on one of its devices.

    Args:
      rows: features, float ``[n, D]``.
      labels: int ``[n]``; every label up to the largest must occur among the rows of each fit.
    """

    def __init__(self, rows: np.ndarray, labels: np.ndarray) -> None:
        self._count, self._classes = len(rows), int(labels.max()) + 1
        size = min(max(_ENTRIES // self._classes, 1), len(rows))
        blocks = -(-len(rows) // size)
        padding = blocks * size - len(rows)
        self._shape = (blocks, size)
        features = np.pad(np.asarray(rows, np.float32), ((0, padding), (0, 0))).reshape(blocks, size, -1)
        numbers = np.pad(np.asarray(labels, np.int32), (0, padding)).reshape(blocks, size)
        with _float64():
            self._basis, components = _principal_components(features, len(rows))
            self._rows = _Rows(*map(jnp.asarray, (features, components, numbers, np.zeros(self._shape))))
        self._zeros = np.zeros((rows.shape[1] + 1, self._classes))
        self._fits: dict[float, np.ndarray] = {}

    def fit(self, strength: float, chosen: np.ndarray | None = None) -> Probe:
        """Returns the optimal classifier for the inverse penalty ``C``.

        Args:
          strength: ``C``.
          chosen: bool ``[n]``, True for rows to fit to; None: all.
        """
        chosen = np.ones(self._count, bool) if chosen is None else chosen
        share = np.zeros(self._shape)
        share.reshape(-1)[: self._count] = chosen / chosen.sum()
        # For two classes scikit-learn has one weight vector, the difference of ours, whose squared norm is twice ours.
        penalty = float((2.0 if self._classes == 2 else 1.0) / (strength * chosen.sum()))
        nearest = min(self._fits, key=lambda other: abs(np.log(other / strength)), default=None)
        start = self._zeros if nearest is None else self._fits[nearest]
        with _float64():
            rows = self._rows._replace(share=jnp.asarray(share))
            place = self._fits[strength] = _minimize(rows, self._basis, penalty, start)
            axes, center = np.asarray(self._basis.axes), np.asarray(self._basis.center)
        weights = axes @ place[:-1]
        bias = place[-1] - center @ weights
        return Probe(weights - weights.mean(axis=1, keepdims=True), bias - bias.mean())


def predict(probe: Probe, rows: np.ndarray) -> np.ndarray:
    """Returns the most probable class of each row: int ``[n]``."""
    at_once = max(_ENTRIES // len(probe.bias), 1)
    blocks = [rows[start : start + at_once] for start in range(0, len(rows), at_once)]
    return np.concatenate([np.argmax(block @ probe.weights + probe.bias, axis=1) for block in blocks])


@contextlib.contextmanager
def _float64() -> Generator[None]:
    """A context in which JAX computes in float64, on a device of this process that supports it."""
    first = jax.local_devices()[0]
    device = first if first.platform in ("cpu", "gpu") else jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(True), jax.default_device(device):
        yield


def _principal_components(features: np.ndarray, count: int) -> tuple[_Basis, np.ndarray]:
    """Returns the basis of principal components, and the rows in it; padding zeros do not affect the mean."""
    center = features.sum(axis=(0, 1), dtype=np.float64) / count
    width = features.shape[-1]
    total = np.zeros((width, width))
    for block in features:
        total += block.T.astype(np.float64) @ block
    variance, axes = np.linalg.eigh(total / count - np.outer(center, center))
    components = np.stack([((block - center) @ axes).astype(np.float32) for block in features])
    return _Basis(*map(jnp.asarray, (center, axes, np.maximum(variance, 0)))), components


def _minimize(rows: _Rows, basis: _Basis, penalty: float, place: np.ndarray) -> np.ndarray:
    """Minimises the loss by Newton's method with backtracking line search, starting from ``place``."""
    # Scalars are passed to the compiled functions unchanged: JAX would compile each operation on them separately.
    current, forcing = _evaluate(rows, basis, penalty, place, 0 * place, 0.0), _LOOSEST
    for _ in range(_MOST_STEPS):
        step, decrement = _newton_step(rows, basis, penalty, current, forcing)
        expected, loss = float(decrement), float(current.loss)
        length = 1.0
        for _ in range(_MOST_HALVINGS):
            candidate = _evaluate(rows, basis, penalty, current.place, step, length)
            if float(candidate.loss) <= loss - 1e-4 * length * expected + 1e-14 * abs(loss):  # allows for rounding
                break
            length /= 2
        current = candidate
        if expected < TOLERANCE:
            break
        forcing = min(_LOOSEST, max(expected**0.25, 1e-3))
    return np.asarray(current.place)


@jax.jit
def _evaluate(
    rows: _Rows, basis: _Basis, penalty: jax.Array, start: jax.Array, step: jax.Array, length: jax.Array
) -> _Point:
    """Evaluates the loss, gradient, probabilities and curvature at the end of a step."""
    place = start + length * step
    weights = basis.axes @ place[:-1]
    bias = place[-1] - basis.center @ weights
    classes = len(bias)

    def add(total: Any, block: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[Any, jax.Array]:
        features, labels, share = block
        features = features.astype(jnp.float64)
        log_probability = jax.nn.log_softmax(features @ weights + bias)
        probability = jnp.exp(log_probability)
        right = jax.nn.one_hot(labels, classes, dtype=jnp.float64)
        excess = share[:, None] * (probability - right)
        added = (
            -jnp.sum(share * jnp.sum(right * log_probability, axis=1)),
            features.T @ excess,
            excess.sum(axis=0),
            share @ (probability * (1 - probability)),
        )
        return jax.tree.map(jnp.add, total, added), probability.astype(jnp.float32)

    zeros = (jnp.zeros(()), jnp.zeros_like(weights), jnp.zeros(classes), jnp.zeros(classes))
    blocks = (rows.features, rows.labels, rows.share)
    (loss, gradient, bias_gradient, curvature), probability = jax.lax.scan(add, zeros, blocks)
    weight_gradient = basis.axes.T @ (gradient - jnp.outer(basis.center, bias_gradient)) + penalty * place[:-1]
    loss += penalty / 2 * jnp.sum(place[:-1] ** 2)
    return _Point(place, loss, jnp.vstack([weight_gradient, bias_gradient]), probability, curvature)


@jax.jit
def _newton_step(
    rows: _Rows, basis: _Basis, penalty: jax.Array, current: _Point, forcing: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns an approximate ``-H^-1 g``, with relative residual ``forcing``, and the decrement ``g^T H^-1 g``."""
    share = rows.share.astype(jnp.float32)

    def product(direction: jax.Array) -> jax.Array:
        """Returns the Hessian times a direction."""
        vector = direction.astype(jnp.float32)

        def add(total: Any, block: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[Any, None]:
            components, probability, share = block
            change = jnp.matmul(components, vector[:-1], precision=_EXACT) + vector[-1]
            change = probability * (change - jnp.sum(probability * change, axis=1, keepdims=True)) * share[:, None]
            added = jnp.matmul(components.T, change, precision=_EXACT), change.sum(axis=0)
            return jax.tree.map(jnp.add, total, added), None

        zeros = (jnp.zeros_like(vector[:-1]), jnp.zeros_like(vector[-1]))
        (weight_part, bias_part), _ = jax.lax.scan(add, zeros, (rows.components, current.probability, share))
        return jnp.vstack([weight_part + penalty * direction[:-1], bias_part])

    variance = jnp.append(basis.variance, 1.0)[:, None]
    regularizer = jnp.append(jnp.full(len(basis.variance), penalty), 0.0)[:, None]
    diagonal = variance * (current.curvature + _SMALLEST_CURVATURE) + regularizer

    residual = -_centred(current.gradient)
    direction = _centred(residual / diagonal)
    start = jnp.vdot(residual, direction)

    def unfinished(state: tuple[Any, ...]) -> jax.Array:
        *_, size, number = state
        return (size > forcing**2 * start) & (number < _MOST_PRODUCTS)

    def improve(state: tuple[Any, ...]) -> tuple[Any, ...]:
        step, residual, direction, size, number = state
        image = product(direction)
        curvature = jnp.vdot(direction, image)
        length = jnp.where(curvature > 0, size / curvature, 0.0)  # 0 if the gradient vanishes
        step, residual = step + length * direction, residual - length * image
        preconditioned = _centred(residual / diagonal)
        next_size = jnp.vdot(residual, preconditioned)
        return step, residual, preconditioned + next_size / size * direction, next_size, number + 1

    step, *_ = jax.lax.while_loop(unfinished, improve, (jnp.zeros_like(residual), residual, direction, start, 0))
    return step, -jnp.vdot(current.gradient, step)


def _centred(values: jax.Array) -> jax.Array:
    """Returns the values minus their mean over classes, which affects no probability."""
    return values - values.mean(axis=1, keepdims=True)
