"""Activation functions by name."""

from collections.abc import Callable

import jax


def quick_gelu(x: jax.Array) -> jax.Array:
    """Returns CLIP's activation, ``x sigmoid(1.702 x)``."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}
