"""The two-tower model: images and texts to unit embeddings, and the learned scale."""

import math
from typing import Any, NotRequired, TypedDict

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rankclip_jax.models.presets import PRESETS, Preset, ResNetPreset
from rankclip_jax.models.resnet import ResNet
from rankclip_jax.models.text_transformer import TextTransformer
from rankclip_jax.models.transformer import Execution
from rankclip_jax.models.vision_transformer import VisionTransformer

MAX_LOGIT_SCALE = math.log(100)
INITIAL_LOGIT_BIAS = -10.0  # SigLIP's

# Mean and standard deviation of CLIP's training images, for pixels in [0, 1].
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


Variables = dict[str, Any]  # Flax's collections: "params", and of ResNets "batch_stats"


class Outputs(TypedDict):
    """What a model gives to an objective: unit embeddings ``[B, D]``, the similarities' multiplier and bias ``[]``."""

    image_embedding: jax.Array
    text_embedding: jax.Array
    logit_scale: jax.Array
    logit_bias: NotRequired[jax.Array]
    image_augmented_embedding: NotRequired[jax.Array]
    text_augmented_embedding: NotRequired[jax.Array]


def normalise(image: jax.Array | np.ndarray) -> jax.Array:
    """uint8 pixels ``[B, H, W, 3]`` to float32 with the mean and deviation that CLIP trains with."""
    return (jnp.asarray(image) / 255.0 - jnp.asarray(PIXEL_MEAN)) / jnp.asarray(PIXEL_DEVIATION)


class Clip(nn.Module):
    """CLIP (Radford et al., 2021): ``apply(variables, image, text) -> Outputs``.

    Args:
      patch_dropout: share of an image's patches that training leaves out; transformers only.
      frozen: the tower that does not learn, ``"vision"`` or ``"text"``, or ``""`` for none (LiT, Zhai et al., 2022).
    """

    preset: Preset
    execution: Execution = Execution()
    initial_logit_scale: float = 1 / 0.07
    learn_logit_bias: bool = False
    patch_dropout: float = 0.0
    frozen: str = ""

    def setup(self) -> None:
        preset = self.preset
        if isinstance(preset.vision, ResNetPreset):
            self.vision: nn.Module = ResNet(preset.vision, preset.embedding_size, self.execution)
        else:
            self.vision = VisionTransformer(
                preset.vision, preset.embedding_size, self.execution, patch_dropout=self.patch_dropout
            )
        self.text = TextTransformer(preset.text, preset.embedding_size, self.execution)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(math.log(self.initial_logit_scale)), ())
        if self.learn_logit_bias:
            self.logit_bias = self.param("logit_bias", nn.initializers.constant(INITIAL_LOGIT_BIAS), ())

    def __call__(self, image: jax.Array, text: jax.Array, train: bool = False) -> Outputs:
        """uint8 pixels ``[B, H, W, 3]`` and token ids ``[B, context_length]`` to `Outputs`, all float32.

        Training normalises by the batch's own statistics, and updates the collection ``"batch_stats"`` (ResNets only).
        """
        outputs: Outputs = {
            "image_embedding": self.encode_image(image, train),
            "text_embedding": self.encode_text(text),
            "logit_scale": jnp.exp(self.logit_scale),
        }
        if self.learn_logit_bias:
            outputs["logit_bias"] = self.logit_bias
        return outputs

    def encode_image(self, image: jax.Array, train: bool = False) -> jax.Array:
        """uint8 pixels ``[B, H, W, 3]`` to float32 unit rows ``[B, D]``."""
        frozen = self.frozen == "vision"
        embedding = unit(self.vision(normalise(image), train and not frozen))
        return jax.lax.stop_gradient(embedding) if frozen else embedding

    def encode_text(self, text: jax.Array) -> jax.Array:
        """Token ids ``[B, context_length]`` to float32 unit rows ``[B, D]``."""
        embedding = unit(self.text(text))
        return jax.lax.stop_gradient(embedding) if self.frozen == "text" else embedding


def unit(x: jax.Array) -> jax.Array:
    """Rows ``[B, D]`` scaled to unit norm, in float32; a row of zeros stays one, with finite gradients."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


def build(config: ConfigDict) -> Clip:
    """The model that the settings under ``config.model`` describe.

    Raises:
      KeyError: no preset of that name.
    """
    preset = PRESETS[config.name]
    execution = Execution(
        jnp.dtype(config.dtype), config.activation, config.scan_layers, config.rematerialise, config.attention
    )
    return Clip(
        preset.with_image_size(config.image_size or preset.vision.image_size),
        execution,
        initial_logit_scale=config.initial_logit_scale,
        learn_logit_bias=config.learn_logit_bias,
        patch_dropout=config.patch_dropout,
        frozen=config.frozen,
    )


def initial_variables(model: Clip, key: jax.Array) -> Variables:
    """Freshly drawn weights."""
    vision, text = model.preset.vision, model.preset.text
    image = jnp.zeros((1, vision.image_size, vision.image_size, 3), jnp.uint8)
    return dict(model.init(key, image, jnp.zeros((1, text.context_length), jnp.int32)))


def describe_variables(model: Clip) -> Variables:
    """The shapes and types of the weights, without computing them."""
    return jax.eval_shape(lambda: initial_variables(model, jax.random.key(0)))
