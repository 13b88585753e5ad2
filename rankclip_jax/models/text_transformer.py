"""CLIP's text transformer: causal, read out at the end-of-text token (Radford et al., 2021)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rankclip_jax.models.presets import TextPreset
from rankclip_jax.models.transformer import Execution, LayerNorm, Transformer


class TextTransformer(nn.Module):
    """Token and position embeddings, causal blocks, a final norm; the end-of-text token is projected."""

    preset: TextPreset
    embedding_size: int
    execution: Execution

    @nn.compact
    def __call__(self, text: jax.Array) -> jax.Array:
        """Token ids ``[B, context_length]`` to ``[B, embedding_size]``, not yet of unit norm."""
        preset, dtype = self.preset, self.execution.dtype
        embed = nn.Embed(
            preset.vocabulary_size,
            preset.width,
            embedding_init=nn.initializers.normal(0.02),
            dtype=dtype,
            name="token_embedding",
        )
        position = nn.initializers.normal(0.01)
        x = embed(text) + self.param("positional_embedding", position, (preset.context_length, preset.width)).astype(
            dtype
        )
        blocks = Transformer(
            preset.width, preset.heads, preset.layers, causal=True, execution=self.execution, name="transformer"
        )
        x = blocks(x, jnp.argmax(text, axis=-1))  # the end-of-text token has the largest id of all
        x = LayerNorm(dtype, name="final_norm")(x)
        scaled = nn.initializers.normal(preset.width**-0.5)
        return nn.Dense(self.embedding_size, use_bias=False, kernel_init=scaled, dtype=dtype, name="projection")(x)
