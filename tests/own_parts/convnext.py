"""ConvNeXt (Liu et al., 2022) as a user's own encoder, with open_clip's weights: ``--config.model.vision.family``.

A complete family in one file: its sizes, its module, its layout in open_clip, where timm builds it, and the open_clip
JSON that it is described by.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from rankclip_jax.input_pipeline.setting import Each, Range, setting
from rankclip_jax.models.encoder import CONVOLUTION, Encoded, Library, TensorMapping, VisionConfig, linear_map, norm_map
from rankclip_jax.models.execution import Execution

_CHANNELS = Range(1, 4096)
# The sizes of timm's names: blocks and channels of the stages, whether GELU is tanh's, and what norms add.
_TIMM = {
    "test_convnext": ((1, 2, 4, 2), (24, 32, 48, 64), True, 1e-5),
    "convnext_tiny": ((3, 3, 9, 3), (96, 192, 384, 768), False, 1e-6),
    "convnext_base": ((3, 3, 27, 3), (128, 256, 512, 1024), False, 1e-6),
}


@dataclasses.dataclass(frozen=True)
class ConvNext(VisionConfig):
    layers: tuple[int, ...] = setting((3, 3, 9, 3), "blocks of each stage", Each(*[Range(1, 512)] * 4))
    widths: tuple[int, ...] = setting((96, 192, 384, 768), "channels of each stage", Each(*[_CHANNELS] * 4))
    tanh_gelu: bool = setting(False, "the approximation of GELU by tanh")
    epsilon: float = setting(1e-6, "what norms add to the variance", Range(0, 1))

    @property
    def stride(self) -> int:
        return 32

    def module(self, embedding_size: int, execution: Execution) -> nn.Module:
        return ConvNextModule(self, embedding_size, execution.dtype)

    def weight_map(self, library: Library) -> list[TensorMapping]:
        if library != "open_clip":
            return super().weight_map(library)
        trunk = "visual.trunk"
        mappings = [
            *_convolution_map(f"{trunk}.stem.0", "stem"),
            *norm_map(f"{trunk}.stem.1", "stem_norm"),
            *norm_map(f"{trunk}.head.norm", "norm"),
            *linear_map("visual.head.proj", "projection", bias=False),
        ]
        for stage, layers in enumerate(self.layers):
            if stage:
                mappings += norm_map(f"{trunk}.stages.{stage}.downsample.0", f"shrink_norm_{stage}")
                mappings += _convolution_map(f"{trunk}.stages.{stage}.downsample.1", f"shrink_{stage}")
            for layer in range(layers):
                theirs, ours = f"{trunk}.stages.{stage}.blocks.{layer}", f"stage_{stage}_block_{layer}"
                mappings += [
                    TensorMapping(f"{theirs}.gamma", ("params", ours, "gamma")),
                    *_convolution_map(f"{theirs}.conv_dw", ours, "depthwise"),
                    *norm_map(f"{theirs}.norm", ours, "norm"),
                    *linear_map(f"{theirs}.mlp.fc1", ours, "mlp_in"),
                    *linear_map(f"{theirs}.mlp.fc2", ours, "mlp_out"),
                ]
        return mappings

    @classmethod
    def from_open_clip(cls, config: Mapping[str, Any]) -> Self | None:
        sizes = _TIMM.get(config.get("timm_model_name", ""))
        return None if sizes is None else cls(config.get("image_size", 224), *sizes)

    def to_open_clip(self) -> dict[str, Any]:
        sizes = (self.layers, self.widths, self.tanh_gelu, self.epsilon)
        (name,) = (name for name, known in _TIMM.items() if known == sizes)
        return {"timm_model_name": name, "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear",
                "image_size": self.image_size}  # fmt: skip


class ConvNextModule(nn.Module):
    config: ConvNext
    embedding_size: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, image, mask=None, *, train=False, rows=None, tokens=False):
        config = self.config
        x = nn.Conv(config.widths[0], (4, 4), 4, dtype=self.dtype, name="stem")(image.astype(self.dtype))
        x = self._norm("stem_norm")(x)
        for stage, (layers, width) in enumerate(zip(config.layers, config.widths, strict=True)):
            if stage:
                x = self._norm(f"shrink_norm_{stage}")(x)
                x = nn.Conv(width, (2, 2), 2, dtype=self.dtype, name=f"shrink_{stage}")(x)
            for layer in range(layers):
                x = Block(config, self.dtype, name=f"stage_{stage}_block_{layer}")(x)
        pooled = self._norm("norm")(x.mean(axis=(1, 2)))
        pooled = nn.Dense(self.embedding_size, use_bias=False, dtype=self.dtype, name="projection")(pooled)
        return Encoded(pooled, x.reshape(len(x), -1, x.shape[-1]) if tokens else None)

    def _norm(self, name):
        return nn.LayerNorm(self.config.epsilon, dtype=self.dtype, use_fast_variance=False, name=name)


class Block(nn.Module):
    config: ConvNext
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        width = x.shape[-1]
        h = nn.Conv(width, (7, 7), padding=3, feature_group_count=width, dtype=self.dtype, name="depthwise")(x)
        h = nn.LayerNorm(self.config.epsilon, dtype=self.dtype, use_fast_variance=False, name="norm")(h)
        h = nn.Dense(4 * width, dtype=self.dtype, name="mlp_in")(h)
        h = nn.Dense(width, dtype=self.dtype, name="mlp_out")(jax.nn.gelu(h, approximate=self.config.tanh_gelu))
        return x + h * self.param("gamma", nn.initializers.constant(1e-6), (width,)).astype(self.dtype)


def _convolution_map(name: str, *path: str) -> list[TensorMapping]:
    return [
        TensorMapping(f"{name}.weight", ("params", *path, "kernel"), CONVOLUTION),
        TensorMapping(f"{name}.bias", ("params", *path, "bias")),
    ]
