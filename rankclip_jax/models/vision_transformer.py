"""CLIP's image transformer (Dosovitskiy et al., 2021, with the changes of Radford et al., 2021)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.setting import FRACTION_BELOW_1, Choice, Range, setting
from rankclip_jax.models.encoder import (
    CONVOLUTION,
    Encoded,
    Library,
    TensorMapping,
    VisionConfig,
    linear_map,
    norm_map,
    resize_grid,
)
from rankclip_jax.models.execution import Execution
from rankclip_jax.models.transformer import (
    LayerNorm,
    Transformer,
    check_heads,
    hugging_face_blocks,
    open_clip_blocks,
)

_SIZE = Range(1, 2**16)
_HEAD_WIDTH = 64  # open_clip's default


@dataclasses.dataclass(frozen=True)
class VisionTransformerConfig(VisionConfig):
    """The sizes of a vision transformer."""

    patch_size: int = setting(32, "side of a patch in pixels", _SIZE)
    width: int = setting(768, "features of a token", _SIZE)
    layers: int = setting(12, "blocks", Range(1, 512))
    heads: int = setting(12, "attention heads of a block", _SIZE)
    pooling: str = setting(
        "class_token", "`class_token`, or `mean`: of the patches, no class token", Choice(("class_token", "mean"))
    )
    patch_dropout: float = setting(
        0.0, "fraction of an image's patches dropped in training (FLIP, Li et al., 2023)", FRACTION_BELOW_1
    )

    @property
    def stride(self) -> int:
        """The side of a patch in pixels."""
        return self.patch_size

    def module(self, embedding_size: int, execution: Execution) -> nn.Module:
        """Returns a `VisionTransformer`."""
        return VisionTransformer(self, embedding_size, execution)

    def check(self, flag: str) -> None:
        """Raises UserError unless the heads divide the width."""
        check_heads(flag, self.width, self.heads)

    def weight_map(self, library: Library) -> list[TensorMapping]:
        """Returns the mappings to OpenAI's layout (open_clip, the RankCLIP release) or ``transformers.CLIPModel``'s."""
        if self.pooling != "class_token":
            raise UserError(
                "--format: other libraries' CLIP models support only the pooling class_token; found "
                f"config.model.vision.pooling={self.pooling}. Use the run from Python: rankclip_jax.load(DIR)"
            )
        if library == "open_clip":
            return [
                TensorMapping("visual.conv1.weight", ("params", "patch_embedding", "kernel"), CONVOLUTION),
                TensorMapping("visual.class_embedding", ("params", "class_embedding")),
                TensorMapping("visual.positional_embedding", ("params", "positional_embedding")),
                *norm_map("visual.ln_pre", "pre_norm", "norm"),
                *open_clip_blocks("visual.transformer.resblocks", self.layers),
                *norm_map("visual.ln_post", "post_norm", "norm"),
                TensorMapping("visual.proj", ("params", "projection", "kernel")),
            ]
        return [
            TensorMapping(
                "vision_model.embeddings.patch_embedding.weight", ("params", "patch_embedding", "kernel"), CONVOLUTION
            ),
            TensorMapping("vision_model.embeddings.class_embedding", ("params", "class_embedding")),
            TensorMapping("vision_model.embeddings.position_embedding.weight", ("params", "positional_embedding")),
            *norm_map("vision_model.pre_layrnorm", "pre_norm", "norm"),  # sic
            *hugging_face_blocks("vision_model.encoder.layers", self.layers),
            *norm_map("vision_model.post_layernorm", "post_norm", "norm"),
            *linear_map("visual_projection", "projection", bias=False),
        ]

    def resize_positions(self, parameters: optax.Params, image_size: int) -> optax.Params:
        """Returns the parameters with the grid of position embeddings resized."""
        old, new = self.image_size // self.stride, image_size // self.stride
        if old == new:
            return parameters
        return {**parameters, "positional_embedding": resize_grid(parameters["positional_embedding"], old, new)}

    @classmethod
    def from_open_clip(cls, config: Mapping[str, Any]) -> Self | None:
        """Returns the transformer for a ``vision_cfg`` whose ``layers`` is a number; None for others."""
        if not isinstance(config.get("layers", 12), int) or "timm_model_name" in config:
            return None
        supported = {"image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio"}
        if unsupported := sorted(config.keys() - supported):
            raise UserError(f"vision_cfg.{unsupported[0]}: not supported; expected {', '.join(sorted(supported))}.")
        if config.get("mlp_ratio", 4) != 4:
            raise UserError(f"vision_cfg.mlp_ratio: expected 4; found {config['mlp_ratio']!r}.")
        width = config.get("width", 768)
        heads = width // config.get("head_width", _HEAD_WIDTH)
        return cls(config.get("image_size", 224), config.get("patch_size", 16), width, config.get("layers", 12), heads)

    def to_open_clip(self) -> dict[str, Any]:
        """Returns the ``vision_cfg`` for an open_clip JSON file."""
        return {
            "image_size": self.image_size,
            "width": self.width,
            "layers": self.layers,
            "patch_size": self.patch_size,
            "head_width": self.width // self.heads,
        }


class PatchEmbedding(nn.Module):
    """A convolution with non-overlapping windows, computed as a matrix product, which halves its time on CPUs."""

    width: int
    side: int  # of a patch, in pixels
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Maps pixels ``[B, H, W, 3]`` to patches ``[B, N, width]`` in row-major order."""
        side, channels = self.side, image.shape[-1]
        # PyTorch's default for a convolution, which CLIP keeps: uniform within 1 / sqrt(inputs).
        uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        kernel = self.param("kernel", uniform, (side, side, channels, self.width))
        rows, columns = image.shape[1] // side, image.shape[2] // side
        x = image.astype(self.dtype).reshape(-1, rows, side, columns, side, channels).swapaxes(2, 3)
        x = x.reshape(-1, side * side * channels) @ kernel.reshape(-1, self.width).astype(self.dtype)
        return x.reshape(-1, rows * columns, self.width)


class VisionTransformer(nn.Module):
    """CLIP's image encoder: patches and a class token, layer norms before and after the blocks, pooling, projection."""

    config: VisionTransformerConfig
    embedding_size: int
    execution: Execution

    @nn.compact
    def __call__(
        self,
        image: jax.Array,
        mask: jax.Array | None = None,
        *,
        train: bool = False,
        rows: jax.Array | None = None,
        tokens: bool = False,
    ) -> Encoded:
        """Encodes normalised pixels ``[B, H, W, 3]`` as ``[B, embedding_size]``; the tokens are the patches.

        Patch dropout is seeded by the stream ``"patch_dropout"`` and each row's index in the global batch, so the draw
        does not depend on how the batch is sharded. ``rows``, int ``[B]``, are these indices; None: counted from 0.
        """
        if mask is not None:
            raise NotImplementedError("images of one size have no padding to mask")
        config, dtype = self.config, self.execution.dtype
        scaled = nn.initializers.normal(config.width**-0.5)
        x = PatchEmbedding(config.width, config.patch_size, dtype, name="patch_embedding")(image)
        first = int(config.pooling == "class_token")
        positional_embedding = self.param("positional_embedding", scaled, (first + x.shape[1], config.width))
        x = x + positional_embedding[first:].astype(dtype)
        if train and config.patch_dropout:
            x = self._drop_patches(x, jnp.arange(x.shape[0]) if rows is None else rows)
        if first:
            class_embedding = self.param("class_embedding", scaled, (config.width,))
            token = jnp.broadcast_to((class_embedding + positional_embedding[0]).astype(dtype), x[:, :1].shape)
            x = jnp.concatenate([token, x], axis=1)

        x = LayerNorm(dtype, name="pre_norm")(x)
        blocks = Transformer(
            config.width, config.heads, config.layers, causal=False, execution=self.execution, name="transformer"
        )
        norm = LayerNorm(dtype, name="post_norm")
        project = nn.Dense(self.embedding_size, use_bias=False, kernel_init=scaled, dtype=dtype, name="projection")
        if first and not tokens:  # only the class token's output is used
            return Encoded(project(norm(blocks(x, token=jnp.zeros(len(x), jnp.int32)))))
        x = blocks(x)
        pooled = project(norm(x[:, 0] if first else x.mean(axis=1)))
        return Encoded(pooled, norm(x[:, first:])) if tokens else Encoded(pooled)

    def _drop_patches(self, x: jax.Array, rows: jax.Array) -> jax.Array:
        """Keeps a random subset of the patches ``[B, N, width]`` of each row, at least one."""
        kept = max(1, int(x.shape[1] * (1 - self.config.patch_dropout)))
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self.make_rng("patch_dropout"), rows)
        draws = jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:2]))(keys)
        _, chosen = jax.lax.top_k(draws, kept)
        return jnp.take_along_axis(x, chosen[..., None], axis=1)
