"""The two-tower model: images and texts to unit embeddings, and the learned scale."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rankclip_jax.models.presets import Preset, ResNetPreset, preset_of
from rankclip_jax.models.resnet import ResNet
from rankclip_jax.models.text_transformer import TextTransformer
from rankclip_jax.models.transformer import Execution
from rankclip_jax.models.vision_transformer import VisionTransformer

MAX_LOGIT_SCALE = math.log(100)

# Mean and standard deviation of CLIP's training images, for pixels in [0, 1].
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


Variables = dict[str, Any]  # Flax's collections: "params", and of ResNets "batch_stats"


class Outputs(NamedTuple):
    """What a model gives to an objective.

    Args:
      embeddings: unit rows by view, float32 ``[B, D]``: ``image``, ``text``, and for second views ``image_augmented``
        and ``text_augmented``.
      scalars: by name, the same on every device: ``scale``, what similarities are multiplied by, and a method's own
        parameters.
    """

    embeddings: dict[str, jax.Array]
    scalars: dict[str, jax.Array]


Channels = tuple[float, float, float]


def normalise(image: jax.Array | np.ndarray, mean: Channels = PIXEL_MEAN, deviation: Channels = PIXEL_STD) -> jax.Array:
    """uint8 pixels ``[B, H, W, 3]`` to float32 with this mean and deviation, which are of pixels in [0, 1]."""
    return (jnp.asarray(image) / 255.0 - jnp.asarray(mean)) / jnp.asarray(deviation)


class Clip(nn.Module):
    """CLIP (Radford et al., 2021): ``apply(variables, batch) -> Outputs``.

    Args:
      preset: the sizes of both towers.
      execution: how they are computed.
      initial_logit_scale: the multiplier of similarities at the start.
      patch_dropout: share of an image's patches that training leaves out; transformers only.
      frozen: the tower that does not learn, ``"vision"`` or ``"text"``, or ``""`` for none (LiT, Zhai et al., 2022).
      pooling: of an image transformer's last layer, see `VisionTransformer`.
      pixel_mean, pixel_std: of the red, green and blue of training images, in [0, 1].
    """

    preset: Preset
    execution: Execution = Execution()
    initial_logit_scale: float = 1 / 0.07
    patch_dropout: float = 0.0
    frozen: str = ""
    pooling: str = "class_token"
    pixel_mean: Channels = PIXEL_MEAN
    pixel_std: Channels = PIXEL_STD

    def setup(self) -> None:
        """Makes the towers and the scale."""
        preset = self.preset
        if isinstance(preset.vision, ResNetPreset):
            self.vision: nn.Module = ResNet(preset.vision, preset.embedding_size, self.execution)
        else:
            self.vision = VisionTransformer(
                preset.vision,
                preset.embedding_size,
                self.execution,
                patch_dropout=self.patch_dropout,
                pooling=self.pooling,
            )
        self.text = TextTransformer(preset.text, preset.embedding_size, self.execution)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(math.log(self.initial_logit_scale)), ())

    def __call__(self, batch: Mapping[str, jax.Array], train: bool = False, rows: jax.Array | None = None) -> Outputs:
        """Every view of a batch to its embeddings, float32, and the scale.

        The views of one kind pass its tower together, so that batch statistics are those of all of them, as in the
        release. Training normalises by the batch's own statistics, and updates the collection ``"batch_stats"``
        (ResNets only); patch dropout takes its randomness from the stream ``"patch_dropout"``.

        Args:
          batch: uint8 pixels ``[B, H, W, 3]`` under names that begin with ``image``, token ids ``[B, context_length]``
            under names that begin with ``text``.
          train: whether this is a step of training.
          rows: each row's number in the global batch, int ``[B]``, which patch dropout is drawn from; None: from 0.
        """
        embeddings: dict[str, jax.Array] = {}
        for kind in ("image", "text"):
            views = sorted(name for name in batch if name.startswith(kind))
            if not views:
                continue
            together = jnp.concatenate([batch[view] for view in views])
            if kind == "text":
                encoded = self.encode_text(together)
            else:
                first = jnp.arange(len(batch[views[0]])) if rows is None else rows
                numbers = [len(views) * first + place for place in range(len(views))]
                encoded = self.encode_image(together, train, jnp.concatenate(numbers))
            embeddings |= zip(views, jnp.split(encoded, len(views)), strict=True)
        return Outputs(embeddings, {"scale": jnp.exp(self.logit_scale)})

    def encode_image(self, image: jax.Array, train: bool = False, rows: jax.Array | None = None) -> jax.Array:
        """uint8 pixels ``[B, H, W, 3]`` to float32 unit rows ``[B, D]``."""
        frozen = self.frozen == "vision"
        pixels = normalise(image, self.pixel_mean, self.pixel_std)
        embedding = unit(self.vision(pixels, train and not frozen, rows))
        return jax.lax.stop_gradient(embedding) if frozen else embedding

    def encode_text(self, text: jax.Array) -> jax.Array:
        """Token ids ``[B, context_length]`` to float32 unit rows ``[B, D]``."""
        embedding = unit(self.text(text))
        return jax.lax.stop_gradient(embedding) if self.frozen == "text" else embedding


def unit(x: jax.Array) -> jax.Array:
    """Rows ``[B, D]`` scaled to unit norm, in float32 or wider; a row of zeros stays one, with finite gradients."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


def build(config: ConfigDict, platform: str | None = None) -> Clip:
    """The model that the settings under ``config.model`` describe.

    Args:
      config: the settings.
      platform: ``"gpu"``, ``"tpu"`` or ``"cpu"``, where it is computed; None: the one that is here.

    Raises:
      UserError: no preset of that name.
    """
    preset = preset_of(config)
    execution = Execution(
        jnp.dtype(config.dtype),
        config.activation,
        config.scan_layers,
        config.remat,
        config.attention,
        platform or jax.default_backend(),
    )
    return Clip(
        preset.with_image_size(config.image_size or preset.vision.image_size),
        execution,
        initial_logit_scale=config.initial_logit_scale,
        patch_dropout=config.patch_dropout,
        frozen=config.frozen,
        pooling=config.pooling,
        pixel_mean=tuple(config.pixel_mean),
        pixel_std=tuple(config.pixel_std),
    )


def init_variables(model: Clip, key: jax.Array) -> Variables:
    """Freshly drawn weights."""
    vision, text = model.preset.vision, model.preset.text
    image = jnp.zeros((1, vision.image_size, vision.image_size, 3), jnp.uint8)
    return dict(model.init(key, {"image": image, "text": jnp.zeros((1, text.context_length), jnp.int32)}))


def abstract_variables(model: Clip) -> Variables:
    """The shapes and types of the weights, without computing them."""
    return jax.eval_shape(lambda: init_variables(model, jax.random.key(0)))
