"""The pre-LayerNorm transformer that both towers share (Radford et al., 2021; GPT-2's residual scaling).

Initial weights, from CLIP: standard deviation ``width ** -0.5`` into attention, ``(2 width) ** -0.5`` into the
MLP, and ``width ** -0.5 (2 layers) ** -0.5`` for the two projections that write to the residual stream.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

LAYER_NORM_EPSILON = 1e-5


def quick_gelu(x: jax.Array) -> jax.Array:
    """CLIP's activation, ``x sigmoid(1.702 x)``."""
    return x * jax.nn.sigmoid(1.702 * x)


class LayerNorm(nn.Module):
    """Layer normalisation computed in float32 and returned in ``dtype``."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=jnp.float32, name="norm")(x).astype(self.dtype)


class Block(nn.Module):
    """Attention and MLP, each normalised before and added after.

    Tokens of all rows stand in one axis, so that a weight's gradient contracts a single one: twice as fast on CPUs.
    """

    width: int
    heads: int
    layers: int  # of the whole stack: scales the residual projections
    causal: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, length: int) -> jax.Array:
        """``[B * length, width]`` to the same."""
        into = nn.initializers.normal(self.width**-0.5)
        residual = nn.initializers.normal(self.width**-0.5 * (2 * self.layers) ** -0.5)

        h = LayerNorm(self.dtype, name="attention_norm")(x)
        h = nn.Dense(3 * self.width, kernel_init=into, dtype=self.dtype, name="attention_in")(h)
        query, key, value = jnp.split(h.reshape(-1, length, 3 * self.heads, self.width // self.heads), 3, axis=-2)
        h = jax.nn.dot_product_attention(query, key, value, is_causal=self.causal).reshape(x.shape)
        x = x + nn.Dense(self.width, kernel_init=residual, dtype=self.dtype, name="attention_out")(h)

        h = LayerNorm(self.dtype, name="mlp_norm")(x)
        wide = nn.initializers.normal((2 * self.width) ** -0.5)
        h = quick_gelu(nn.Dense(4 * self.width, kernel_init=wide, dtype=self.dtype, name="mlp_in")(h))
        return x + nn.Dense(self.width, kernel_init=residual, dtype=self.dtype, name="mlp_out")(h)


class Transformer(nn.Module):
    """A stack of blocks, whose parameters have a leading axis of ``layers``.

    With ``scan`` one block is compiled and looped over, which keeps compile time and code small; without it the loop
    is unrolled, which makes steps of small models faster.
    """

    width: int
    heads: int
    layers: int
    causal: bool
    scan: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, L, width]`` to the same."""
        length = x.shape[1]
        scan = nn.scan(
            lambda block, x, _: (block(x, length), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.layers,
            unroll=1 if self.scan else self.layers,
        )
        block = Block(self.width, self.heads, self.layers, self.causal, self.dtype, name="blocks")
        return scan(block, x.reshape(-1, self.width), None)[0].reshape(x.shape)
