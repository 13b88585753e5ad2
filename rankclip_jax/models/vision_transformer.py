"""CLIP's image transformer (Dosovitskiy et al., 2021, with the changes of Radford et al., 2021)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rankclip_jax.models.presets import VisionPreset
from rankclip_jax.models.transformer import Execution, LayerNorm, Transformer

POOLINGS = ("class_token", "mean")


class PatchEmbedding(nn.Module):
    """A convolution whose windows lie side by side, as the product of matrices that it is: half its time on CPUs."""

    width: int
    side: int  # of a patch, in pixels
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Pixels ``[B, H, W, 3]`` to ``[B, N, width]``, patches from left to right and then down."""
        side, channels = self.side, image.shape[-1]
        # PyTorch's default for a convolution, which CLIP keeps: uniform within 1 / sqrt(inputs).
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        kernel = self.param("kernel", uniform, (side, side, channels, self.width))
        rows, columns = image.shape[1] // side, image.shape[2] // side
        x = image.astype(self.dtype).reshape(-1, rows, side, columns, side, channels).swapaxes(2, 3)
        x = x.reshape(-1, side * side * channels) @ kernel.reshape(-1, self.width).astype(self.dtype)
        return x.reshape(-1, rows * columns, self.width)


class VisionTransformer(nn.Module):
    """Patches and a class token, normalised before and after the blocks; what is pooled is projected.

    Args:
      preset: the sizes.
      embedding_size: width of the result.
      execution: how it is computed.
      patch_dropout: share of an image's patches that a training step leaves out, in [0, 1) (FLIP, Li et al., 2023).
      pooling: ``"class_token"``, CLIP's, or ``"mean"`` of the patches, without such a token.
    """

    preset: VisionPreset
    embedding_size: int
    execution: Execution
    patch_dropout: float = 0.0
    pooling: str = "class_token"

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False, rows: jax.Array | None = None) -> jax.Array:
        """Normalised pixels ``[B, H, W, 3]`` to ``[B, embedding_size]``, not yet of unit norm.

        Training with patch dropout takes its randomness from the stream ``"patch_dropout"`` and from each row's number,
        so that it draws the same however a batch is divided; ``rows``, int ``[B]``, are the numbers, or else from 0.
        """
        preset, dtype = self.preset, self.execution.dtype
        scaled = nn.initializers.normal(preset.width**-0.5)
        x = PatchEmbedding(preset.width, preset.patch_size, dtype, name="patch_embedding")(image)
        tokens = int(self.pooling == "class_token")
        positional_embedding = self.param("positional_embedding", scaled, (tokens + x.shape[1], preset.width))
        x = x + positional_embedding[tokens:].astype(dtype)
        if train and self.patch_dropout:
            x = self._drop_patches(x, jnp.arange(x.shape[0]) if rows is None else rows)
        if tokens:
            class_embedding = self.param("class_embedding", scaled, (preset.width,))
            first = jnp.broadcast_to((class_embedding + positional_embedding[0]).astype(dtype), x[:, :1].shape)
            x = jnp.concatenate([first, x], axis=1)

        x = LayerNorm(dtype, name="pre_norm")(x)
        blocks = Transformer(
            preset.width, preset.heads, preset.layers, causal=False, execution=self.execution, name="transformer"
        )
        x = blocks(x, jnp.zeros(len(x), jnp.int32)) if tokens else blocks(x).mean(axis=1)
        x = LayerNorm(dtype, name="post_norm")(x)
        return nn.Dense(self.embedding_size, use_bias=False, kernel_init=scaled, dtype=dtype, name="projection")(x)

    def _drop_patches(self, x: jax.Array, rows: jax.Array) -> jax.Array:
        """``[B, N, width]`` to a random choice of patches for each row, at least one."""
        kept = max(1, int(x.shape[1] * (1 - self.patch_dropout)))
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng("patch_dropout"), rows)
        draws = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:2]))(keys)
        _, chosen = jax.lax.top_k(draws, kept)
        return jnp.take_along_axis(x, chosen[..., None], axis=1)
