"""Aggregation of metrics between log lines: means over the steps, or the last value of slowly changing ones."""

import jax
import jax.numpy as jnp
from clu import metrics

_LAST = ("learning_rate", "logit_scale")  # logged with their value at the logged step

Sums = dict[str, metrics.Metric]


class Window:
    """Accumulates scalars on the devices and reads them once, so that adding does not block."""

    def __init__(self) -> None:
        self._sums: Sums = {}

    def add(self, values: dict[str, jax.Array]) -> None:
        """Adds a step's scalars."""
        own = _single(values)
        self._sums = _merge(self._sums, own) if self._sums.keys() == own.keys() else own

    def means(self) -> dict[str, float]:
        """Returns the aggregated scalars since the last call, by name."""
        sums, self._sums = self._sums, {}
        return {name: float(metric.compute()) for name, metric in jax.device_get(sums).items()}


@jax.jit
def _single(values: dict[str, jax.Array]) -> Sums:
    kinds = {name: metrics.LastValue if name in _LAST else metrics.Average for name in values}
    return {name: kinds[name].from_model_output(jnp.asarray(value, jnp.float32)) for name, value in values.items()}


@jax.jit
def _merge(sums: Sums, more: Sums) -> Sums:
    return {name: sums[name].merge(more[name]) for name in sums}
