"""CLIP's image transformer (Dosovitskiy et al., 2021, with the changes of Radford et al., 2021)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rankclip_jax.models.presets import VisionPreset
from rankclip_jax.models.transformer import Execution, LayerNorm, Transformer


class VisionTransformer(nn.Module):
    """Patches and a class token, normalised before and after the blocks; the class token is projected."""

    preset: VisionPreset
    embedding_size: int
    execution: Execution

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Normalised pixels ``[B, H, W, 3]`` to ``[B, embedding_size]``, not yet of unit norm."""
        preset, dtype = self.preset, self.execution.dtype
        scaled = nn.initializers.normal(preset.width**-0.5)
        x = nn.Conv(
            preset.width,
            (preset.patch_size, preset.patch_size),
            strides=(preset.patch_size, preset.patch_size),
            padding="VALID",
            use_bias=False,
            # PyTorch's default for a convolution, which CLIP keeps: uniform within 1 / sqrt(inputs).
            kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
            dtype=dtype,
            name="patch_embedding",
        )(image.astype(dtype))
        x = x.reshape(x.shape[0], -1, preset.width)
        class_embedding = self.param("class_embedding", scaled, (preset.width,)).astype(dtype)
        x = jnp.concatenate([jnp.broadcast_to(class_embedding, (x.shape[0], 1, preset.width)), x], axis=1)
        x = x + self.param("positional_embedding", scaled, x.shape[1:]).astype(dtype)

        x = LayerNorm(dtype, name="pre_norm")(x)
        blocks = Transformer(
            preset.width, preset.heads, preset.layers, causal=False, execution=self.execution, name="transformer"
        )
        x = blocks(x)
        x = LayerNorm(dtype, name="post_norm")(x[:, 0])
        return nn.Dense(self.embedding_size, use_bias=False, kernel_init=scaled, dtype=dtype, name="projection")(x)
