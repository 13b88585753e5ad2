"""Multinomial logistic regression with an L2 penalty, solved to convergence: scikit-learn's objective and optimum.

    f(W, b) = mean_i CE(softmax(x_i W + b), y_i) + ||W||^2 / (2 C n)

By Newton's method. The step is found by conjugate gradients with the Hessian's products in float32, preconditioned by
``(mean_i p_ik (1 - p_ik) variance_d + 1 / (C n))`` in the basis of the features' principal components, which removes
what makes embeddings slow for L-BFGS: their variance spans many orders of magnitude. Loss and gradient, which alone say
where the optimum is, are float64. Rows are taken in blocks, so that beside the features one ``[n, K]`` of float32 is
held, the probabilities, whatever the number of penalties.
"""

import contextlib
from collections.abc import Generator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Of the Newton decrement, twice the excess of the loss over its minimum: the step at which it is less is the last, and
# leaves some thousandth of it.
TOLERANCE = 1e-10
_ENTRIES = 1 << 23  # of a block's logits
_LOOSEST = 0.3
_MOST_STEPS, _MOST_PRODUCTS, _MOST_HALVINGS = 100, 500, 30
_SMALLEST_CURVATURE = 1e-12  # for classes that are told apart beyond doubt
_EXACT = jax.lax.Precision.HIGHEST


class Probe(NamedTuple):
    """Logits are ``x @ weights + bias``: float64 ``[D, K]`` and ``[K]``."""

    weights: np.ndarray
    bias: np.ndarray


class _Rows(NamedTuple):
    """All rows in blocks, the last filled up with rows without a share."""

    features: jax.Array  # float32 [blocks, rows, D]
    components: jax.Array  # float32 [blocks, rows, D], centred and in the basis
    labels: jax.Array  # int32 [blocks, rows]
    share: jax.Array  # float64 [blocks, rows], of the mean; sums to 1


class _Basis(NamedTuple):
    """Of the principal components."""

    center: jax.Array  # float64 [D]
    axes: jax.Array  # float64 [D, D], in columns
    variance: jax.Array  # float64 [D]


class _Point(NamedTuple):
    """A place ``[D + 1, K]``, weights in the basis and below them the bias of centred rows, and what holds there."""

    place: jax.Array
    loss: jax.Array
    gradient: jax.Array  # [D + 1, K]
    probability: jax.Array  # float32 [blocks, rows, K]
    curvature: jax.Array  # [K], mean of p (1 - p)


class LogisticRegression:
    """Fits of some of the rows, each begun from that of the nearest penalty.

    Every process computes the same on one of its devices, so that the result is that of one device.

    Args:
      rows: features, float ``[n, D]``.
      labels: int ``[n]``, each number up to the largest at least once among the rows of every fit.
    """

    def __init__(self, rows: np.ndarray, labels: np.ndarray) -> None:
        self._count, self._classes = len(rows), int(labels.max()) + 1
        size = min(max(_ENTRIES // self._classes, 1), len(rows))
        blocks = -(-len(rows) // size)
        padding = blocks * size - len(rows)
        self._shape = (blocks, size)
        features = np.pad(np.asarray(rows, np.float32), ((0, padding), (0, 0))).reshape(blocks, size, -1)
        numbers = np.pad(np.asarray(labels, np.int32), (0, padding)).reshape(blocks, size)
        with _exactly():
            self._basis, components = _principal_components(features, len(rows))
            self._rows = _Rows(*map(jnp.asarray, (features, components, numbers, np.zeros(self._shape))))
        self._nothing = np.zeros((rows.shape[1] + 1, self._classes))
        self._found: dict[float, np.ndarray] = {}

    def fit(self, strength: float, chosen: np.ndarray | None = None) -> Probe:
        """The optimum for the inverse penalty ``C``.

        Args:
          strength: ``C``.
          chosen: bool ``[n]``, the rows to fit to; None: all.
        """
        chosen = np.ones(self._count, bool) if chosen is None else chosen
        share = np.zeros(self._shape)
        share.reshape(-1)[: self._count] = chosen / chosen.sum()
        # scikit-learn has one vector of weights for two classes, the difference of ours: its square is twice as large.
        penalty = float((2.0 if self._classes == 2 else 1.0) / (strength * chosen.sum()))
        nearest = min(self._found, key=lambda other: abs(np.log(other / strength)), default=None)
        start = self._nothing if nearest is None else self._found[nearest]
        with _exactly():
            rows = self._rows._replace(share=jnp.asarray(share))
            place = self._found[strength] = _minimize(rows, self._basis, penalty, start)
            axes, center = np.asarray(self._basis.axes), np.asarray(self._basis.center)
        weights = axes @ place[:-1]
        bias = place[-1] - center @ weights
        return Probe(weights - weights.mean(axis=1, keepdims=True), bias - bias.mean())


def predict(probe: Probe, rows: np.ndarray) -> np.ndarray:
    """The likeliest class of each row: int ``[n]``."""
    at_once = max(_ENTRIES // len(probe.bias), 1)
    blocks = [rows[start : start + at_once] for start in range(0, len(rows), at_once)]
    return np.concatenate([np.argmax(block @ probe.weights + probe.bias, axis=1) for block in blocks])


@contextlib.contextmanager
def _exactly() -> Generator[None]:
    """A context in which JAX computes in float64, on a device of this process that knows it."""
    first = jax.local_devices()[0]
    device = first if first.platform in ("cpu", "gpu") else jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(True), jax.default_device(device):
        yield


def _principal_components(features: np.ndarray, count: int) -> tuple[_Basis, np.ndarray]:
    """The basis, and the rows in it; of zeros that fill up the last block no mean is taken."""
    center = features.sum(axis=(0, 1), dtype=np.float64) / count
    width = features.shape[-1]
    total = np.zeros((width, width))
    for block in features:
        total += block.T.astype(np.float64) @ block
    variance, axes = np.linalg.eigh(total / count - np.outer(center, center))
    components = np.stack([((block - center) @ axes).astype(np.float32) for block in features])
    return _Basis(*map(jnp.asarray, (center, axes, np.maximum(variance, 0)))), components


def _minimize(rows: _Rows, basis: _Basis, penalty: float, place: np.ndarray) -> np.ndarray:
    """Newton's method from a place, with the step halved until the loss falls."""
    # Numbers go to the compiled functions as they are: each operation outside would be compiled by itself.
    here, forcing = _evaluate(rows, basis, penalty, place, 0 * place, 0.0), _LOOSEST
    for _ in range(_MOST_STEPS):
        step, decrement = _newton_step(rows, basis, penalty, here, forcing)
        expected, loss = float(decrement), float(here.loss)
        length = 1.0
        for _ in range(_MOST_HALVINGS):
            there = _evaluate(rows, basis, penalty, here.place, step, length)
            if float(there.loss) <= loss - 1e-4 * length * expected + 1e-14 * abs(loss):  # of rounding
                break
            length /= 2
        here = there
        if expected < TOLERANCE:
            break
        forcing = min(_LOOSEST, max(expected**0.25, 1e-3))
    return np.asarray(here.place)


@jax.jit
def _evaluate(
    rows: _Rows, basis: _Basis, penalty: jax.Array, start: jax.Array, step: jax.Array, length: jax.Array
) -> _Point:
    """What holds at the end of a step."""
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

    nothing = (jnp.zeros(()), jnp.zeros_like(weights), jnp.zeros(classes), jnp.zeros(classes))
    blocks = (rows.features, rows.labels, rows.share)
    (loss, gradient, of_bias, curvature), probability = jax.lax.scan(add, nothing, blocks)
    of_weights = basis.axes.T @ (gradient - jnp.outer(basis.center, of_bias)) + penalty * place[:-1]
    loss += penalty / 2 * jnp.sum(place[:-1] ** 2)
    return _Point(place, loss, jnp.vstack([of_weights, of_bias]), probability, curvature)


@jax.jit
def _newton_step(
    rows: _Rows, basis: _Basis, penalty: jax.Array, here: _Point, forcing: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """An approximate ``-H^-1 g``, whose residual is ``forcing`` of the gradient, and the decrement ``g^T H^-1 g``."""
    share = rows.share.astype(jnp.float32)

    def product(direction: jax.Array) -> jax.Array:
        """Of the Hessian."""
        vector = direction.astype(jnp.float32)

        def add(total: Any, block: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[Any, None]:
            components, probability, share = block
            change = jnp.matmul(components, vector[:-1], precision=_EXACT) + vector[-1]
            change = probability * (change - jnp.sum(probability * change, axis=1, keepdims=True)) * share[:, None]
            added = jnp.matmul(components.T, change, precision=_EXACT), change.sum(axis=0)
            return jax.tree.map(jnp.add, total, added), None

        nothing = (jnp.zeros_like(vector[:-1]), jnp.zeros_like(vector[-1]))
        (of_weights, of_bias), _ = jax.lax.scan(add, nothing, (rows.components, here.probability, share))
        return jnp.vstack([of_weights + penalty * direction[:-1], of_bias])

    variance = jnp.append(basis.variance, 1.0)[:, None]
    regularizer = jnp.append(jnp.full(len(basis.variance), penalty), 0.0)[:, None]
    diagonal = variance * (here.curvature + _SMALLEST_CURVATURE) + regularizer

    residual = -_apart(here.gradient)
    direction = _apart(residual / diagonal)
    start = jnp.vdot(residual, direction)

    def unfinished(state: tuple[Any, ...]) -> jax.Array:
        *_, size, number = state
        return (size > forcing**2 * start) & (number < _MOST_PRODUCTS)

    def improve(state: tuple[Any, ...]) -> tuple[Any, ...]:
        step, residual, direction, size, number = state
        image = product(direction)
        curvature = jnp.vdot(direction, image)
        length = jnp.where(curvature > 0, size / curvature, 0.0)  # rounded to nothing where the gradient is nothing
        step, residual = step + length * direction, residual - length * image
        preconditioned = _apart(residual / diagonal)
        next_size = jnp.vdot(residual, preconditioned)
        return step, residual, preconditioned + next_size / size * direction, next_size, number + 1

    step, *_ = jax.lax.while_loop(unfinished, improve, (jnp.zeros_like(residual), residual, direction, start, 0))
    return step, -jnp.vdot(here.gradient, step)


def _apart(values: jax.Array) -> jax.Array:
    """Without what all classes have in common, which changes no probability."""
    return values - values.mean(axis=1, keepdims=True)
