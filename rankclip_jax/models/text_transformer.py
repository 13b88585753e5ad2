"""CLIP's causal text transformer, pooled at the end-of-text token (Radford et al., 2021)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.setting import Range, setting
from rankclip_jax.models.encoder import Encoded, Library, TensorMapping, TextConfig, linear_map, norm_map
from rankclip_jax.models.execution import Execution
from rankclip_jax.models.transformer import (
    LayerNorm,
    Transformer,
    check_heads,
    hugging_face_blocks,
    open_clip_blocks,
)

_SIZE = Range(1, 2**16)


@dataclasses.dataclass(frozen=True)
class TextTransformerConfig(TextConfig):
    """The sizes of a causal transformer over token ids."""

    width: int = setting(512, "features of a token", _SIZE)
    layers: int = setting(12, "blocks", Range(1, 512))
    heads: int = setting(8, "attention heads of a block", _SIZE)

    def module(self, embedding_size: int, execution: Execution) -> nn.Module:
        """Returns a `TextTransformer`."""
        return TextTransformer(self, embedding_size, execution)

    def check(self, flag: str) -> None:
        """Raises UserError unless the heads divide the width."""
        check_heads(flag, self.width, self.heads)

    def weight_map(self, library: Library) -> list[TensorMapping]:
        """Returns the mappings to OpenAI's layout (open_clip, the RankCLIP release) or ``transformers.CLIPModel``'s."""
        if library == "open_clip":
            return [
                TensorMapping("token_embedding.weight", ("params", "token_embedding", "embedding")),
                TensorMapping("positional_embedding", ("params", "positional_embedding")),
                *open_clip_blocks("transformer.resblocks", self.layers),
                *norm_map("ln_final", "final_norm", "norm"),
                TensorMapping("text_projection", ("params", "projection", "kernel")),
            ]
        return [
            TensorMapping("text_model.embeddings.token_embedding.weight", ("params", "token_embedding", "embedding")),
            TensorMapping("text_model.embeddings.position_embedding.weight", ("params", "positional_embedding")),
            *hugging_face_blocks("text_model.encoder.layers", self.layers),
            *norm_map("text_model.final_layer_norm", "final_norm", "norm"),
            *linear_map("text_projection", "projection", bias=False),
        ]

    @classmethod
    def from_open_clip(cls, config: Mapping[str, Any]) -> Self | None:
        """Returns the transformer for a ``text_cfg``; None if it names a Hugging Face model."""
        if "hf_model_name" in config:
            return None
        names = {"context_length": 77, "vocab_size": 49_408, "width": 512, "heads": 8, "layers": 12}
        if unsupported := sorted(config.keys() - names.keys()):
            raise UserError(f"text_cfg.{unsupported[0]}: not supported; expected {', '.join(names)}.")
        length, vocabulary, width, heads, layers = (config.get(name, default) for name, default in names.items())
        return cls(length, vocabulary, width, layers, heads)

    def to_open_clip(self) -> dict[str, Any]:
        """Returns the ``text_cfg`` for an open_clip JSON file."""
        return {
            "context_length": self.context_length,
            "vocab_size": self.vocabulary_size,
            "width": self.width,
            "heads": self.heads,
            "layers": self.layers,
        }


class TextTransformer(nn.Module):
    """CLIP's text encoder: embeddings, causal blocks and a final norm, pooled at the end-of-text token."""

    config: TextTransformerConfig
    embedding_size: int
    execution: Execution

    @nn.compact
    def __call__(
        self,
        text: jax.Array,
        mask: jax.Array | None = None,
        *,
        train: bool = False,
        rows: jax.Array | None = None,
        tokens: bool = False,
    ) -> Encoded:
        """Encodes token ids ``[B, context_length]`` as ``[B, embedding_size]``; ids after end-of-text are padding."""
        del train, rows  # the encoder is deterministic
        config, dtype = self.config, self.execution.dtype
        embed = nn.Embed(
            config.vocabulary_size,
            config.width,
            embedding_init=nn.initializers.normal(0.02),
            dtype=dtype,
            name="token_embedding",
        )
        position = nn.initializers.normal(0.01)
        x = embed(text) + self.param("positional_embedding", position, (config.context_length, config.width)).astype(
            dtype
        )
        blocks = Transformer(
            config.width, config.heads, config.layers, causal=True, execution=self.execution, name="transformer"
        )
        end = jnp.argmax(text, axis=-1)  # the end-of-text token has the largest id
        norm = LayerNorm(dtype, name="final_norm")
        scaled = nn.initializers.normal(config.width**-0.5)
        project = nn.Dense(self.embedding_size, use_bias=False, kernel_init=scaled, dtype=dtype, name="projection")
        if not tokens:
            return Encoded(project(norm(blocks(x, mask, end))))
        x = norm(blocks(x, mask))
        is_text = jnp.arange(text.shape[1]) <= end[:, None]
        pooled = project(jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0])
        return Encoded(pooled, x, is_text if mask is None else is_text & mask)
