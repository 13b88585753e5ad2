"""Dot-product attention within a sequence, computed by XLA or, on NVIDIA GPUs, by cuDNN's flash attention."""

from typing import Literal

import jax
import jax.numpy as jnp

Implementation = Literal["xla", "cudnn"]
IMPLEMENTATIONS = ("auto", "xla", "cudnn")
# Sequence length from which `auto` uses flash attention: its kernels work on tiles of at least 64 tokens.
FLASH_LENGTH = 64


def choose(implementation: str, *, platform: str, dtype: jnp.dtype, length: int) -> Implementation:
    """Returns the attention implementation for sequences of this length: ``"xla"`` or ``"cudnn"``.

    Args:
      implementation: one of `IMPLEMENTATIONS`.
      platform: ``"gpu"``, ``"tpu"`` or ``"cpu"``.
      dtype: compute dtype; flash attention supports 16-bit types only.
      length: sequence length in tokens.
    """
    if implementation == "xla" or platform != "gpu" or dtype.itemsize != 2:
        return "xla"
    return "cudnn" if implementation == "cudnn" or length >= FLASH_LENGTH else "xla"


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    causal: bool,
    implementation: Implementation,
    mask: jax.Array | None = None,
) -> jax.Array:
    """Scaled dot-product attention (Vaswani et al., 2017).

    Args:
      query: ``[B, L, heads, width]``.
      key: the shape of ``query``.
      value: the shape of ``query``.
      causal: whether each token attends only to itself and to earlier tokens.
      implementation: ``"xla"`` or ``"cudnn"``.
      mask: bool ``[B, L]``, True for tokens that may be attended to; None: all.

    Returns:
      ``[B, L, heads, width]``.
    """
    rows, length = query.shape[:2]
    key_lengths = None
    if implementation == "cudnn" and length % 2:
        # JAX's cuDNN attention has gradients for even lengths only, so a padding token is appended. The causal mask
        # hides it from earlier tokens; without one, the key lengths do. Its query attends to the other tokens, which
        # keeps its values finite.
        query, key, value = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (query, key, value))
        mask = None if mask is None else jnp.pad(mask, ((0, 0), (0, 1)))
        key_lengths = None if causal or mask is not None else jnp.full(rows, length, jnp.int32)
    attended = jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=None if mask is None else mask[:, None, None, :],
        is_causal=causal,
        key_value_seq_lengths=key_lengths,
        implementation=implementation,
    )
    return attended[:, :length]
