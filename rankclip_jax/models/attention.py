"""Attention among the tokens of a row, by XLA's operations or by cuDNN's flash attention on NVIDIA GPUs."""

from typing import Literal

import jax
import jax.numpy as jnp

Implementation = Literal["xla", "cudnn"]
IMPLEMENTATIONS = ("auto", "xla", "cudnn")
# Tokens from which `auto` takes flash attention: its kernels work on tiles of 64 tokens or more.
FLASH_LENGTH = 64


def choose(implementation: str, *, platform: str, dtype: jnp.dtype, length: int) -> Implementation:
    """The implementation for rows of a length: ``"xla"`` or ``"cudnn"``.

    Args:
      implementation: one of `IMPLEMENTATIONS`.
      platform: ``"gpu"``, ``"tpu"`` or ``"cpu"``, where the result is computed.
      dtype: of the computation; flash attention has 16-bit types only.
      length: tokens of a row.
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
      key: the same.
      value: the same.
      causal: each token attends to itself and to those before it.
      implementation: ``"xla"`` or ``"cudnn"``.
      mask: bool ``[B, L]``, which tokens may be attended to; None: all.

    Returns:
      ``[B, L, heads, width]``.
    """
    rows, length = query.shape[:2]
    key_lengths = None
    if implementation == "cudnn" and length % 2:
        # JAX has gradients for even lengths only. A causal mask hides the token that is added from those before it;
        # without one, the keys' length does. Its own query attends to the others, so that its numbers are finite.
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
