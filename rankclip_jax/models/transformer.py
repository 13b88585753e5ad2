"""The pre-LayerNorm transformer that both towers share (Radford et al., 2021; GPT-2's residual scaling).

Initial weights, from CLIP: standard deviation ``width ** -0.5`` into attention, ``(2 width) ** -0.5`` into the MLP, and
``width ** -0.5 (2 layers) ** -0.5`` for the two projections that write to the residual stream. CLIP states this for its
text tower; its code leaves PyTorch's defaults in the image tower's blocks, ours does not (docs/weights.md).
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.models.activations import ACTIVATIONS
from rankclip_jax.models.attention import attention, choose
from rankclip_jax.models.encoder import LINEAR, TensorMapping, linear_map, norm_map
from rankclip_jax.models.execution import Execution
from rankclip_jax.models.remat import rematted

LAYER_NORM_EPSILON = 1e-5


class LayerNorm(nn.Module):
    """Layer normalisation computed in float32, or wider, and returned in ``dtype``."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises ``[..., width]`` over its last axis."""
        return nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=jnp.promote_types(self.dtype, jnp.float32), name="norm")(
            x
        ).astype(self.dtype)


class Dense(nn.Module):
    """A linear layer that can compute only a slice of its outputs."""

    features: int
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, outputs: slice = slice(None)) -> jax.Array:
        """Maps ``[..., inputs]`` to ``[..., features]``, or to the features in the slice ``outputs``."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return x.astype(self.dtype) @ kernel[:, outputs].astype(self.dtype) + bias[outputs].astype(self.dtype)


class Block(nn.Module):
    """A pre-norm block: attention and MLP, each with a residual connection.

    The tokens of all rows share one axis, so that a weight's gradient contracts a single axis: twice as fast on CPUs.
    Where a row is pooled at one token, only that token's query and MLP are computed; the others' outputs are unused.
    """

    width: int
    heads: int
    layers: int  # of the whole stack: scales the residual projections
    causal: bool
    length: int  # tokens of a row
    execution: Execution

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None, token: jax.Array | None = None) -> jax.Array:
        """Maps ``[B * length, width]`` to the same shape, or to ``[B, width]`` if ``token`` is given.

        Args:
          x: the tokens of all rows.
          mask: bool ``[B, length]``, True for tokens that may be attended to.
          token: the index of the token to pool in each row, int ``[B]``.
        """
        dtype = self.execution.dtype
        into = nn.initializers.normal(self.width**-0.5)
        residual = nn.initializers.normal(self.width**-0.5 * (2 * self.layers) ** -0.5)
        norm, project = LayerNorm(dtype, name="attention_norm"), Dense(3 * self.width, into, dtype, name="attention_in")

        if token is None:
            query, key, value = jnp.split(self._by_head(project(norm(x))), 3, axis=-2)
            execution = self.execution
            implementation = choose(execution.attention, platform=execution.platform, dtype=dtype, length=self.length)
            h = attention(query, key, value, causal=self.causal, implementation=implementation, mask=mask)
        else:
            key, value = jnp.split(self._by_head(project(norm(x), slice(self.width, None))), 2, axis=-2)
            x = jnp.take_along_axis(x.reshape(-1, self.length, self.width), token[:, None, None], axis=1)[:, 0]
            query = project(norm(x), slice(self.width)).reshape(-1, self.heads, self.width // self.heads)
            exact = jnp.promote_types(dtype, jnp.float32)
            scores = jnp.einsum("bhd,bkhd->bhk", query, key, preferred_element_type=exact) * query.shape[-1] ** -0.5
            visible = jnp.arange(self.length) <= token[:, None, None] if self.causal else None
            if mask is not None:
                visible = mask[:, None] if visible is None else visible & mask[:, None]
            h = jnp.einsum("bhk,bkhd->bhd", jax.nn.softmax(scores, where=visible).astype(dtype), value)
        x = x + Dense(self.width, residual, dtype, name="attention_out")(h.reshape(x.shape))

        h = LayerNorm(dtype, name="mlp_norm")(x)
        wide = nn.initializers.normal((2 * self.width) ** -0.5)
        h = Dense(4 * self.width, wide, dtype, name="mlp_in")(h)
        h = ACTIVATIONS[self.execution.activation](h)
        return x + Dense(self.width, residual, dtype, name="mlp_out")(h)

    def _by_head(self, x: jax.Array) -> jax.Array:
        """Reshapes ``[B * length, n * width]`` to ``[B, length, n * heads, width / heads]``."""
        return x.reshape(-1, self.length, x.shape[-1] * self.heads // self.width, self.width // self.heads)


class Transformer(nn.Module):
    """A stack of blocks, whose parameters are stacked along a leading axis of ``layers``."""

    width: int
    heads: int
    layers: int
    causal: bool
    execution: Execution

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None, token: jax.Array | None = None) -> jax.Array:
        """Maps ``[B, L, width]`` to the same shape, or to ``[B, width]`` if ``token`` is given.

        Args:
          x: the tokens.
          mask: bool ``[B, L]``, True for tokens that may be attended to; None: all.
          token: the index of the token to pool in each row, int ``[B]``.
        """
        execution, shape = self.execution, x.shape
        scanned, unrolled = (self._block(shape[1], execution, in_loop=in_loop) for in_loop in (True, False))

        def init(key: jax.Array) -> optax.Params:
            # JAX cannot vmap flash attention over layers, and the initial weights do not depend on it.
            block = self._block(shape[1], dataclasses.replace(execution, attention="xla"))
            return jax.vmap(lambda key: block.init(key, x)["params"])(jax.random.split(key, self.layers))

        def apply(block: nn.Module, x: jax.Array, parameters: optax.Params, token: jax.Array | None = None) -> Any:
            return block.apply({"params": parameters}, x, mask, token)

        x = x.reshape(-1, self.width)
        parameters = self.param("blocks", init)
        if execution.loops_over(self.layers):
            before, last = _split(parameters, (self.layers - 1, 1))
            x, _ = jax.lax.scan(lambda x, layer: (apply(scanned, x, layer), None), x, before)
        else:
            *before, last = _split(parameters, (1,) * self.layers)
            for layer in before:
                x = apply(unrolled, x, _first(layer))
        x = apply(unrolled, x, _first(last), token)
        return x.reshape(shape) if token is None else x

    def _block(self, length: int, execution: Execution, in_loop: bool = False) -> nn.Module:
        block_class = rematted(Block, execution.remat, in_loop=in_loop)
        return block_class(self.width, self.heads, self.layers, self.causal, length, execution, parent=None)


def _split(tree: Any, sizes: tuple[int, ...]) -> list[Any]:
    """Splits each array along its leading axis; the gradient is a single concatenation."""
    leaves, structure = jax.tree.flatten(tree)
    return [
        jax.tree.unflatten(structure, parts)
        for parts in zip(*(jax.lax.split(leaf, sizes) for leaf in leaves), strict=True)
    ]


def _first(tree: Any) -> Any:
    """Returns each array's first element along its leading axis."""
    return jax.tree.map(lambda x: x[0], tree)


def open_clip_blocks(prefix: str, layers: int) -> list[TensorMapping]:
    """Returns the mappings of the weights of `Transformer` to OpenAI's and open_clip's files."""
    mappings: list[TensorMapping] = []
    blocks = ("transformer", "blocks")
    for layer in range(layers):
        name = f"{prefix}.{layer}"
        mappings += [
            *norm_map(f"{name}.ln_1", *blocks, "attention_norm", "norm", layer=layer),
            TensorMapping(f"{name}.attn.in_proj_weight", ("params", *blocks, "attention_in", "kernel"), LINEAR, layer),
            TensorMapping(f"{name}.attn.in_proj_bias", ("params", *blocks, "attention_in", "bias"), None, layer),
            *linear_map(f"{name}.attn.out_proj", *blocks, "attention_out", layer=layer),
            *norm_map(f"{name}.ln_2", *blocks, "mlp_norm", "norm", layer=layer),
            *linear_map(f"{name}.mlp.c_fc", *blocks, "mlp_in", layer=layer),
            *linear_map(f"{name}.mlp.c_proj", *blocks, "mlp_out", layer=layer),
        ]
    return mappings


def hugging_face_blocks(prefix: str, layers: int) -> list[TensorMapping]:
    """Returns the mappings of the weights of `Transformer` to files of ``transformers.CLIPModel``."""
    mappings: list[TensorMapping] = []
    blocks = ("transformer", "blocks")
    for layer in range(layers):
        name = f"{prefix}.{layer}"
        mappings += norm_map(f"{name}.layer_norm1", *blocks, "attention_norm", "norm", layer=layer)
        for part, letter in enumerate("qkv"):
            mappings += linear_map(f"{name}.self_attn.{letter}_proj", *blocks, "attention_in", layer=layer, part=part)
        mappings += [
            *linear_map(f"{name}.self_attn.out_proj", *blocks, "attention_out", layer=layer),
            *norm_map(f"{name}.layer_norm2", *blocks, "mlp_norm", "norm", layer=layer),
            *linear_map(f"{name}.mlp.fc1", *blocks, "mlp_in", layer=layer),
            *linear_map(f"{name}.mlp.fc2", *blocks, "mlp_out", layer=layer),
        ]
    return mappings


def check_heads(flag: str, width: int, heads: int) -> None:
    """Raises UserError unless the heads divide the width."""
    if width % heads:
        raise UserError(f"{flag}.heads: expected a divisor of the width, {width}; found {heads}.")
