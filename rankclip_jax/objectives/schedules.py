"""Weights that change over training."""

import jax
import jax.numpy as jnp


def ramp(progress: jax.Array | float, start: float, end: float, share: float) -> jax.Array:
    """Returns a weight that rises linearly from ``start`` to ``end`` over the first ``share`` of training.

    RankCLIP's release ramps its ranking terms by ``clip(3 (e - 1) / (E - 1), 0, 2)`` over epochs ``e = 1..E``:
    that is ``ramp(progress, 0, 2, 2 / 3)``.

    Args:
      progress: fraction of training done, in [0, 1], any shape.
      start: the weight at the start.
      end: the weight from ``share`` on.
      share: fraction of training, in [0, 1]; 0 gives ``end`` at once.
    """
    if share == 0:
        return jnp.full_like(progress, end, dtype=jnp.result_type(float))
    return start + (end - start) * jnp.clip(jnp.asarray(progress) / share, 0, 1)
