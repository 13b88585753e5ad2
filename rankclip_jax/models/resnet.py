"""CLIP's modified ResNet (Radford et al., 2021, section 2.4).

It differs from He et al. (2016) in a stem of three convolutions, in strides taken by average pooling after a
convolution rather than by the convolution (anti-aliased, after Zhang, 2019), and in attention pooling at the end.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.setting import Each, Range, setting
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
from rankclip_jax.models.remat import rematted

_MOMENTUM = 0.9  # of running statistics
EXPANSION = 4  # output channels of a block, as a multiple of its inner channels


@dataclasses.dataclass(frozen=True)
class ResNetConfig(VisionConfig):
    """The sizes of an image ResNet; ``width`` is the number of channels after the stem."""

    has_batch_statistics: ClassVar[bool] = True
    unit: ClassVar[str] = "positions of the last grid"

    width: int = setting(64, "channels after the stem, an even number", Range(2, 2**12))
    layers: tuple[int, int, int, int] = setting((3, 4, 6, 3), "blocks of each stage", Each(*[Range(1, 512)] * 4))

    @property
    def stride(self) -> int:
        """The total downsampling: the stem halves the image twice, and three of the stages once each."""
        return 32

    @property
    def heads(self) -> int:
        """The heads of the attention pooling, with 64 channels each."""
        return self.width // 2

    def module(self, embedding_size: int, execution: Execution) -> nn.Module:
        """Returns a `ResNet`."""
        return ResNet(self, embedding_size, execution)

    def check(self, flag: str) -> None:
        """Raises UserError for an odd width: the stem begins with half the width."""
        if self.width % 2:
            raise UserError(f"{flag}.width: expected an even number; found {self.width}.")

    def weight_map(self, library: Library) -> list[TensorMapping]:
        """Returns the mappings to OpenAI's layout, which open_clip and the RankCLIP release share."""
        if library != "open_clip":
            raise UserError(
                "--format: Hugging Face's CLIPModel supports no ResNets. Use --format open_clip, or train a ViT preset."
            )
        mappings: list[TensorMapping] = []
        for number in (1, 2, 3):
            mappings += [
                _convolution_map(f"visual.conv{number}", f"stem_convolution_{number}"),
                *_batch_norm_map(f"visual.bn{number}", f"stem_norm_{number}"),
            ]
        for stage, layers in enumerate(self.layers, 1):
            for layer in range(layers):
                theirs, ours = f"visual.layer{stage}.{layer}", f"stage_{stage}_block_{layer + 1}"
                for number in (1, 2, 3):
                    mappings += [
                        _convolution_map(f"{theirs}.conv{number}", ours, f"convolution_{number}"),
                        *_batch_norm_map(f"{theirs}.bn{number}", ours, f"norm_{number}"),
                    ]
                if layer == 0:
                    mappings += [
                        _convolution_map(f"{theirs}.downsample.0", ours, "shortcut_convolution"),
                        *_batch_norm_map(f"{theirs}.downsample.1", ours, "shortcut_norm"),
                    ]
        pool = ("params", "attention_pool", "positional_embedding")
        mappings.append(TensorMapping("visual.attnpool.positional_embedding", pool))
        for theirs, ours in (("k_proj", "key"), ("q_proj", "query"), ("v_proj", "value"), ("c_proj", "output")):
            mappings += linear_map(f"visual.attnpool.{theirs}", "attention_pool", ours)
        return mappings

    def resize_positions(self, parameters: optax.Params, image_size: int) -> optax.Params:
        """Returns the parameters with the attention pooling's position embeddings resized."""
        old, new = self.image_size // self.stride, image_size // self.stride
        if old == new:
            return parameters
        pool = parameters["attention_pool"]
        resized = resize_grid(pool["positional_embedding"], old, new)
        return {**parameters, "attention_pool": {**pool, "positional_embedding": resized}}

    @classmethod
    def from_open_clip(cls, config: Mapping[str, Any]) -> Self | None:
        """Returns the ResNet for a ``vision_cfg`` whose ``layers`` are a list; None for others."""
        if not isinstance(config.get("layers"), list):
            return None
        supported = {"image_size", "width", "layers", "patch_size"}
        if unsupported := sorted(config.keys() - supported):
            raise UserError(f"vision_cfg.{unsupported[0]}: not supported; expected {', '.join(sorted(supported))}.")
        return cls(config.get("image_size", 224), config.get("width", 64), tuple(config["layers"]))

    def to_open_clip(self) -> dict[str, Any]:
        """Returns the ``vision_cfg`` for an open_clip JSON file."""
        return {"image_size": self.image_size, "width": self.width, "layers": list(self.layers), "patch_size": None}


class ResNet(nn.Module):
    """CLIP's ResNet: a stem, four stages of bottleneck blocks, and attention pooling.

    Batch statistics are those of the global batch, and are kept in the collection ``"batch_stats"``.
    """

    config: ResNetConfig
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
        """Encodes normalised pixels ``[B, H, W, 3]`` as ``[B, embedding_size]``; tokens: the last grid's features."""
        del rows  # the encoder is deterministic
        if mask is not None:
            raise NotImplementedError("images of one size have no padding to mask")
        width, dtype = self.config.width, self.execution.dtype
        x = image.astype(dtype)
        for number, (channels, stride) in enumerate(((width // 2, 2), (width // 2, 1), (width, 1)), 1):
            x = _convolution(channels, 3, dtype, f"stem_convolution_{number}", stride)(x)
            x = nn.relu(BatchNorm(self.execution, name=f"stem_norm_{number}")(x, train))
        x = _shrink(x, 2)

        # Argument 2 is ``train``, which is not traced.
        block_class = rematted(Bottleneck, self.execution.remat, static=(2,))
        for stage, layers in enumerate(self.config.layers):
            for layer in range(layers):
                stride = 2 if stage and not layer else 1
                name = f"stage_{stage + 1}_block_{layer + 1}"
                x = block_class(width * 2**stage, stride, self.execution, name=name)(x, train)
        pooled = AttentionPool(self.config.heads, self.embedding_size, dtype, name="attention_pool")(x)
        return Encoded(pooled, x.reshape(len(x), -1, x.shape[-1])) if tokens else Encoded(pooled)


class Bottleneck(nn.Module):
    """A residual block of 1 x 1, 3 x 3 and 1 x 1 convolutions; both branches downsample by average pooling."""

    channels: int
    stride: int
    execution: Execution

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, 4 channels]``."""
        norm, dtype = functools.partial(BatchNorm, self.execution), self.execution.dtype
        h = nn.relu(norm(name="norm_1")(_convolution(self.channels, 1, dtype, "convolution_1")(x), train))
        h = nn.relu(norm(name="norm_2")(_convolution(self.channels, 3, dtype, "convolution_2")(h), train))
        h = _shrink(h, self.stride)
        h = _convolution(EXPANSION * self.channels, 1, dtype, "convolution_3")(h)
        # Blocks are initialised as the identity, as CLIP does after Goyal et al. (2017).
        h = norm(scale_init=nn.initializers.zeros, name="norm_3")(h, train)
        if self.stride > 1 or x.shape[-1] != EXPANSION * self.channels:
            x = _shrink(x, self.stride)
            x = _convolution(EXPANSION * self.channels, 1, dtype, "shortcut_convolution")(x)
            x = norm(name="shortcut_norm")(x, train)
        return nn.relu(h + x)


class AttentionPool(nn.Module):
    """Attention pooling: the mean over positions is the query, and all positions are keys and values."""

    heads: int
    embedding_size: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, embedding_size]``."""
        channels = x.shape[-1]
        scaled = nn.initializers.normal(channels**-0.5)
        x = x.reshape(x.shape[0], -1, channels)
        x = jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1)
        x = x + self.param("positional_embedding", scaled, x.shape[1:]).astype(self.dtype)

        def split(tokens: jax.Array, name: str) -> jax.Array:
            projected = nn.Dense(channels, kernel_init=scaled, dtype=self.dtype, name=name)(tokens)
            return projected.reshape(*tokens.shape[:2], self.heads, -1)

        # With a single query per row, flash attention is not worth its launch overhead.
        pooled = jax.nn.dot_product_attention(split(x[:, :1], "query"), split(x, "key"), split(x, "value"))
        pooled = pooled.reshape(-1, channels)
        return nn.Dense(self.embedding_size, kernel_init=scaled, dtype=self.dtype, name="output")(pooled)


def _convolution(channels: int, size: int, dtype: jnp.dtype, name: str, stride: int = 1) -> nn.Conv:
    return nn.Conv(
        channels,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=False,
        # PyTorch's default for a convolution, which CLIP keeps: uniform within 1 / sqrt(inputs).
        kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
        dtype=dtype,
        name=name,
    )


class BatchNorm(nn.Module):
    """PyTorch's batch normalisation, with float32 statistics over the rows of all devices.

    Training normalises by the biased variance. The running variance, used in evaluation, averages the unbiased one,
    which is ``n / (n - 1)`` times as large; Flax's ``BatchNorm`` averages the biased one.
    """

    execution: Execution
    scale_init: nn.initializers.Initializer = nn.initializers.ones

    def setup(self) -> None:
        """Wraps Flax's module, which does everything but that factor, and shares its variable names."""
        self._norm = nn.BatchNorm(
            axis_name=self.execution.axes or None,  # type: ignore[arg-type]  # flax takes several too
            momentum=_MOMENTUM,
            epsilon=1e-5,
            dtype=self.execution.dtype,
            scale_init=self.scale_init,
        )
        nn.share_scope(self, self._norm)

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalises ``[B, H, W, C]``; training updates the collection ``"batch_stats"``."""
        before: jax.Array | None = self.get_variable("batch_stats", "var")
        normalised = self._norm(x, use_running_average=not train)
        if train and before is not None:
            axes = self.execution.axes
            count = x.size // x.shape[-1] * (jax.lax.axis_size(axes) if axes else 1)
            after: jax.Array = self.get_variable("batch_stats", "var")
            self.put_variable("batch_stats", "var", after + (after - _MOMENTUM * before) / (count - 1))
        return normalised


def _shrink(x: jax.Array, stride: int) -> jax.Array:
    return x if stride == 1 else nn.avg_pool(x, (stride, stride), (stride, stride))


def _batch_norm_map(name: str, *path: str) -> list[TensorMapping]:
    return [
        *norm_map(name, *path),
        TensorMapping(f"{name}.running_mean", ("batch_stats", *path, "mean")),
        TensorMapping(f"{name}.running_var", ("batch_stats", *path, "var")),
    ]


def _convolution_map(name: str, *path: str) -> TensorMapping:
    return TensorMapping(f"{name}.weight", ("params", *path, "kernel"), CONVOLUTION)
