"""The pre-LayerNorm transformer that both towers share (Radford et al., 2021; GPT-2's residual scaling).

Initial weights, from CLIP: standard deviation ``width ** -0.5`` into attention, ``(2 width) ** -0.5`` into the MLP, and
``width ** -0.5 (2 layers) ** -0.5`` for the two projections that write to the residual stream. CLIP states this for its
text tower; its code leaves PyTorch's defaults in the image tower's blocks, ours does not (docs/weights.md).
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from rankclip_jax.models.rematerialisation import rematerialised

LAYER_NORM_EPSILON = 1e-5
_FLOAT32 = jnp.dtype("float32")


def quick_gelu(x: jax.Array) -> jax.Array:
    """CLIP's activation, ``x sigmoid(1.702 x)``."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a transformer is computed, apart from its sizes.

    Args:
      dtype: type of the computation; parameters are float32 whatever it is.
      activation: a key of `ACTIVATIONS`.
      scan_layers: compile one block and loop over the layers, which keeps compile time and code small; otherwise the
        loop is unrolled, which makes steps of small models faster.
      rematerialise: what the backward pass computes again, see `rematerialisation.rematerialised`.
      attention: ``"xla"``, or ``"cudnn"``, NVIDIA's flash attention, which needs such a GPU and a 16-bit ``dtype``.
      axes: of the mesh, if each device computes its own rows of a batch: normalisation by its statistics crosses them.
    """

    dtype: jnp.dtype = _FLOAT32
    activation: str = "quick_gelu"
    scan_layers: bool = True
    rematerialise: str = "nothing"
    attention: Literal["xla", "cudnn"] = "xla"
    axes: tuple[str, ...] = ()


class LayerNorm(nn.Module):
    """Layer normalisation computed in float32, or wider, and returned in ``dtype``."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[..., width]`` to the same."""
        return nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=jnp.promote_types(self.dtype, jnp.float32), name="norm")(
            x
        ).astype(self.dtype)


class Block(nn.Module):
    """Attention and MLP, each normalised before and added after.

    Tokens of all rows stand in one axis, so that a weight's gradient contracts a single one: twice as fast on CPUs.
    """

    width: int
    heads: int
    layers: int  # of the whole stack: scales the residual projections
    causal: bool
    length: int  # tokens of a row
    execution: Execution

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B * length, width]`` to the same."""
        dtype = self.execution.dtype
        into = nn.initializers.normal(self.width**-0.5)
        residual = nn.initializers.normal(self.width**-0.5 * (2 * self.layers) ** -0.5)

        h = LayerNorm(dtype, name="attention_norm")(x)
        h = nn.Dense(3 * self.width, kernel_init=into, dtype=dtype, name="attention_in")(h)
        query, key, value = jnp.split(h.reshape(-1, self.length, 3 * self.heads, self.width // self.heads), 3, axis=-2)
        h = jax.nn.dot_product_attention(
            query, key, value, is_causal=self.causal, implementation=self.execution.attention
        ).reshape(x.shape)
        x = x + nn.Dense(self.width, kernel_init=residual, dtype=dtype, name="attention_out")(h)

        h = LayerNorm(dtype, name="mlp_norm")(x)
        wide = nn.initializers.normal((2 * self.width) ** -0.5)
        h = nn.Dense(4 * self.width, kernel_init=wide, dtype=dtype, name="mlp_in")(h)
        h = ACTIVATIONS[self.execution.activation](h)
        return x + nn.Dense(self.width, kernel_init=residual, dtype=dtype, name="mlp_out")(h)


class Transformer(nn.Module):
    """A stack of blocks, whose parameters have a leading axis of ``layers``."""

    width: int
    heads: int
    layers: int
    causal: bool
    execution: Execution

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, L, width]`` to the same."""
        execution = self.execution
        block_class = rematerialised(Block, execution.rematerialise, in_loop=execution.scan_layers)
        scan = nn.scan(
            lambda block, x, _: (block(x), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.layers,
            unroll=1 if execution.scan_layers else self.layers,
        )
        block = block_class(self.width, self.heads, self.layers, self.causal, x.shape[1], execution, name="blocks")
        return scan(block, x.reshape(-1, self.width), None)[0].reshape(x.shape)
