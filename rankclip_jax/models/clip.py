"""The two-tower model: images and texts to unit embeddings, and the learned scale."""

import math
from typing import NotRequired, TypedDict

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from rankclip_jax.models.presets import PRESETS, Preset
from rankclip_jax.models.text_transformer import TextTransformer
from rankclip_jax.models.transformer import Execution
from rankclip_jax.models.vision_transformer import VisionTransformer

MAX_LOGIT_SCALE = math.log(100)
INITIAL_LOGIT_BIAS = -10.0  # SigLIP's

# Mean and standard deviation of CLIP's training images, for pixels in [0, 1].
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


class Outputs(TypedDict):
    """What a model gives to an objective: unit embeddings ``[B, D]``, the similarities' multiplier and bias ``[]``."""

    image_embedding: jax.Array
    text_embedding: jax.Array
    logit_scale: jax.Array
    logit_bias: NotRequired[jax.Array]
    image_augmented_embedding: NotRequired[jax.Array]
    text_augmented_embedding: NotRequired[jax.Array]


def normalise(image: jax.Array) -> jax.Array:
    """uint8 pixels ``[B, H, W, 3]`` to float32 with the mean and deviation that CLIP trains with."""
    return (image / 255.0 - jnp.asarray(PIXEL_MEAN)) / jnp.asarray(PIXEL_DEVIATION)


class Clip(nn.Module):
    """CLIP (Radford et al., 2021): ``apply(variables, image, text) -> Outputs``."""

    preset: Preset
    execution: Execution = Execution()
    initial_logit_scale: float = 1 / 0.07
    learn_logit_bias: bool = False

    def setup(self) -> None:
        preset = self.preset
        self.vision = VisionTransformer(preset.vision, preset.embedding_size, self.execution)
        self.text = TextTransformer(preset.text, preset.embedding_size, self.execution)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(math.log(self.initial_logit_scale)), ())
        if self.learn_logit_bias:
            self.logit_bias = self.param("logit_bias", nn.initializers.constant(INITIAL_LOGIT_BIAS), ())

    def __call__(self, image: jax.Array, text: jax.Array) -> Outputs:
        """uint8 pixels ``[B, H, W, 3]`` and token ids ``[B, context_length]`` to `Outputs`, all float32."""
        outputs: Outputs = {
            "image_embedding": self.encode_image(image),
            "text_embedding": self.encode_text(text),
            "logit_scale": jnp.exp(self.logit_scale),
        }
        if self.learn_logit_bias:
            outputs["logit_bias"] = self.logit_bias
        return outputs

    def encode_image(self, image: jax.Array) -> jax.Array:
        """uint8 pixels ``[B, H, W, 3]`` to float32 unit rows ``[B, D]``."""
        return unit(self.vision(normalise(image)))

    def encode_text(self, text: jax.Array) -> jax.Array:
        """Token ids ``[B, context_length]`` to float32 unit rows ``[B, D]``."""
        return unit(self.text(text))


def unit(x: jax.Array) -> jax.Array:
    """Rows ``[B, D]`` scaled to unit norm, in float32; a row of zeros stays one, with finite gradients."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


def build(config: ConfigDict) -> Clip:
    """The model that the settings under ``config.model`` describe.

    Raises:
      KeyError: no preset of that name.
    """
    execution = Execution(jnp.dtype(config.dtype), config.activation, config.scan_layers, config.rematerialise)
    return Clip(
        PRESETS[config.name],
        execution,
        initial_logit_scale=config.initial_logit_scale,
        learn_logit_bias=config.learn_logit_bias,
    )
