"""FastCLIP v1 to v3 (Wei et al., 2024): a contrastive loss over the whole dataset, for small batches.

A batch's sum over negatives is a biased estimate of the dataset's. SogCLR (Yuan et al., 2022) keeps a moving average
``u`` of it for each sample and each direction. With the pair's own similarity subtracted, ``h = x_i t_j - x_i t_i``,

    g_i = mean over the other pairs j of the batch of exp(h_ij / T)
    u_i <- (1 - gamma) u_i + gamma g_i        (u_i = g_i where the sample is new)
    gradient of log(epsilon + u_i):  grad g_i / (epsilon + u_i)

Every version averages both directions. ``gamma`` falls from 1 to its end by a cosine over the first half of training.

- ``v1``: ``log(epsilon + u)`` at a constant temperature ``T``: that of ``config.model.initial_logit_scale``.
- ``v2``: ``T_i (log(epsilon + u_i) + rho)`` with a temperature for each sample and direction (iSogCLR, Qiu et al.,
  2023). Each temperature takes a step of Adam on its own gradient when its sample is seen.
- ``v3``: ``T (log(epsilon + u) + rho)`` with one learned temperature, ``T = 1 / s``.

The averages are kept as logarithms, so that similarities at any temperature neither overflow nor vanish.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rankclip_jax.input_pipeline.setting import FRACTION, Choice, Range, setting
from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives.objective import Metrics, Step
from rankclip_jax.objectives.pairwise import PairwiseObjective, Scalars, Similarities, Values

_LOG_EPSILON = math.log(1e-14)
_DIRECTIONS = {"image": "text", "text": "image"}
_ADAM = (0.9, 0.999, 1e-8)
_LARGEST_GRADIENT = 5.0  # of a sample's temperature
_TEMPERATURES = 0.01, 1.0  # of a sample


@dataclasses.dataclass(frozen=True)
class FastClip(PairwiseObjective):
    """The global contrastive loss, with moving averages for each sample of the training data."""

    version: str = setting(
        "v3", "`v1`: constant temperature, `v2`: one per sample, `v3`: one learned", Choice(("v1", "v2", "v3"))
    )
    rho: float = setting(6.5, "v2 and v3: weight that keeps temperatures from growing", Range(0, 1000))
    gamma: float = setting(0.2, "share of a new batch in the moving averages at the end", FRACTION)
    gamma_decay: float = setting(0.5, "fraction of training over which this share falls from 1", FRACTION)
    sample_temperature: float = setting(0.03, "v2: initial temperature of each sample", Range(*_TEMPERATURES))
    sample_temperature_rate: float = setting(0.0133, "v2: learning rate of the temperatures", Range(0, 1))

    def initial_state(self, examples: int) -> Mapping[str, Any]:
        """Returns the state of each sample and direction: the average's logarithm; for v2, temperature and moments."""
        state = {f"log_average_{row}": np.full(examples, -np.inf, np.float32) for row in _DIRECTIONS}
        if self.version == "v2":
            for row in _DIRECTIONS:
                state[f"temperature_{row}"] = np.full(examples, self.sample_temperature, np.float32)
                state[f"first_moment_{row}"] = np.zeros(examples, np.float32)
                state[f"second_moment_{row}"] = np.zeros(examples, np.float32)
            state["visits"] = np.zeros(examples, np.int32)
        return state

    def scheduled(self, step: Step) -> Scalars:
        """Returns the share ``gamma`` of a batch in the averages."""
        done = jnp.clip(jnp.asarray(step.progress) / max(self.gamma_decay, 1e-9), 0, 1)
        return {"gamma": self.gamma + (1 - self.gamma) * (1 + jnp.cos(jnp.pi * done)) / 2}

    def values(self, outputs: Outputs, step: Step) -> Values:
        """Returns the state of the batch's samples."""
        del outputs
        return {name: state[step.sample] for name, state in step.state.items()}

    def row_loss(self, similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        """Returns each pair's loss, and keeps the new state of its sample."""
        total = averages = jnp.zeros(similarity.own.shape[0], scalars["scale"].dtype)
        for row, column in _DIRECTIONS.items():
            temperature = self._temperature(similarity, scalars, row)
            margins = similarity.margins(row, column)
            log_terms = margins / _column(temperature) - math.log(max(similarity.size - 1, 1))
            log_g = jax.lax.stop_gradient(jax.nn.logsumexp(log_terms, axis=-1, where=~similarity.own))
            log_u = _moving(similarity.value(f"log_average_{row}"), log_g, scalars["gamma"])
            log_norm = jnp.logaddexp(log_u, _LOG_EPSILON)
            shares = jnp.where(similarity.own, 0, jnp.exp(log_terms - log_norm[:, None]))
            ratio = jnp.sum(shares, axis=-1)  # g / (epsilon + u), with the gradient of g
            ratio -= jax.lax.stop_gradient(ratio)
            similarity.keep(f"log_average_{row}", log_u)
            match self.version:
                case "v1":
                    loss = log_norm + ratio
                case "v2":
                    self._keep_temperature(similarity, row, temperature, shares, margins, log_norm)
                    loss = temperature * (log_norm + self.rho + ratio)
                case _:
                    loss = temperature * (log_norm + self.rho) + jax.lax.stop_gradient(temperature) * ratio
            total += loss / 2
            averages += log_u / 2
        if self.version == "v2":
            similarity.keep("visits", similarity.value("visits") + 1)
        return total, {"log_average": averages}

    def next_state(self, step: Step, kept: Values) -> Mapping[str, jax.Array]:
        """Returns the state with that of the batch's samples replaced; of a sample seen twice, by its last pair's."""
        assert step.sample is not None
        pair = jnp.arange(len(step.sample))
        examples = len(next(iter(step.state.values())))
        last = jnp.full(examples, -1).at[step.sample].max(pair)
        place = jnp.where(last[step.sample] == pair, step.sample, examples)
        return {
            name: state.at[place].set(kept[name].astype(state.dtype), mode="drop") for name, state in step.state.items()
        }

    def _temperature(self, similarity: Similarities, scalars: Scalars, row: str) -> jax.Array:
        match self.version:
            case "v1":
                return 1 / jax.lax.stop_gradient(scalars["scale"])
            case "v2":
                return similarity.value(f"temperature_{row}")
            case _:
                return 1 / scalars["scale"]

    def _keep_temperature(
        self,
        similarity: Similarities,
        row: str,
        temperature: jax.Array,
        shares: jax.Array,
        margins: jax.Array,
        log_norm: jax.Array,
    ) -> None:
        """Keeps each sample's temperature after a step of Adam on the gradient of its own loss."""
        of_ratio = -jnp.sum(shares * margins, axis=-1) / temperature
        gradient = jnp.clip(log_norm + self.rho + of_ratio, -_LARGEST_GRADIENT, _LARGEST_GRADIENT)
        first_decay, second_decay, epsilon = _ADAM
        visits = similarity.value("visits") + 1
        first = first_decay * similarity.value(f"first_moment_{row}") + (1 - first_decay) * gradient
        second = second_decay * similarity.value(f"second_moment_{row}") + (1 - second_decay) * gradient**2
        mean, square = first / (1 - first_decay**visits), second / (1 - second_decay**visits)
        moved = temperature - self.sample_temperature_rate * mean / (jnp.sqrt(square) + epsilon)
        similarity.keep(f"temperature_{row}", jnp.clip(moved, *_TEMPERATURES))
        similarity.keep(f"first_moment_{row}", first)
        similarity.keep(f"second_moment_{row}", second)


def _column(temperature: jax.Array) -> jax.Array:
    return temperature[:, None] if temperature.ndim else temperature


def _moving(log_u: jax.Array, log_g: jax.Array, gamma: jax.Array) -> jax.Array:
    """Returns the logarithm of ``(1 - gamma) u + gamma g``, or of g where u is 0 (a new sample)."""
    old = jnp.where(jnp.isfinite(log_u), log_u, log_g)
    return jnp.logaddexp(jnp.log1p(-gamma) + old, jnp.log(gamma) + log_g)
