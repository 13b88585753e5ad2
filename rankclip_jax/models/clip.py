"""The two-tower model: encodes images and texts as unit embeddings, and learns the logit scale."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rankclip_jax.models.encoder import Encoded
from rankclip_jax.models.execution import Execution
from rankclip_jax.models.lora import merge
from rankclip_jax.models.presets import Preset, preset_of

MAX_LOGIT_SCALE = math.log(100)  # CLIP's limit for the logarithm of the scale

# Mean and standard deviation of CLIP's training images, for pixels in [0, 1].
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)

_DIGEST_BASES = (0x9E3779B1, 0x85EBCA77)  # odd, so that every token counts

Variables = dict[str, Any]  # Flax's collections: "params", and for ResNets "batch_stats"


class Outputs(NamedTuple):
    """The model outputs that an objective computes its loss from.

    Args:
      embeddings: unit rows by view, float32 ``[B, D]``: ``image``, ``text``, and for second views ``image_augmented``
        and ``text_augmented``.
      scalars: by name, the same on every device: ``scale``, the multiplier of similarities, and the objective's own
        parameters.
      tokens: features of each token by view, ``[B, L, W]``; only for objectives with ``needs_tokens``.
      masks: bool ``[B, L]`` by view, True for tokens that are not padding; views without padding have no mask.
      head: outputs of the objective's own module, ``[B, ...]`` by name.
      captions: digests of the captions, uint32 ``[B, 2]``; only for objectives with ``needs_captions``.
    """

    embeddings: dict[str, jax.Array]
    scalars: dict[str, jax.Array]
    tokens: dict[str, jax.Array] = {}  # noqa: RUF012  # never changed
    masks: dict[str, jax.Array] = {}  # noqa: RUF012
    head: dict[str, jax.Array] = {}  # noqa: RUF012
    captions: jax.Array | None = None


Channels = tuple[float, float, float]


def normalise(image: jax.Array | np.ndarray, mean: Channels = PIXEL_MEAN, deviation: Channels = PIXEL_STD) -> jax.Array:
    """Returns uint8 pixels ``[B, H, W, 3]`` as float32, scaled to [0, 1] and normalised by ``mean`` and ``deviation``.

    Args:
      image: the pixels.
      mean: of the red, green and blue of pixels in [0, 1].
      deviation: their standard deviation.
    """
    return (jnp.asarray(image) / 255.0 - jnp.asarray(mean)) / jnp.asarray(deviation)


class Clip(nn.Module):
    """CLIP (Radford et al., 2021): ``apply(variables, batch) -> Outputs``.

    Args:
      preset: the sizes of both encoders.
      execution: how they are computed.
      initial_logit_scale: the initial multiplier of similarities.
      tokenizer: the tokenizer of its texts, a key of `TOKENIZERS`.
      frozen: encoders that are not trained, ``"vision"`` or ``"text"``; they run in evaluation mode (LiT, Zhai et al.,
        2022).
      pixel_mean, pixel_std: of the red, green and blue of training images, in [0, 1].
    """

    preset: Preset
    execution: Execution = Execution()
    initial_logit_scale: float = 1 / 0.07
    tokenizer: str = "clip"
    frozen: tuple[str, ...] = ()
    pixel_mean: Channels = PIXEL_MEAN
    pixel_std: Channels = PIXEL_STD

    def setup(self) -> None:
        """Creates the encoders and the logit scale."""
        preset = self.preset
        self.vision: nn.Module = preset.vision.module(preset.embedding_size, self.execution)
        self.text: nn.Module = preset.text.module(preset.embedding_size, self.execution) or self.vision
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(math.log(self.initial_logit_scale)), ())

    def __call__(
        self,
        batch: Mapping[str, jax.Array],
        train: bool = False,
        rows: jax.Array | None = None,
        tokens: bool = False,
    ) -> Outputs:
        """Encodes every view of a batch; returns float32 embeddings and the scale.

        The views of one modality are encoded as one batch, so batch statistics cover all of them, as in the release.
        Training normalises by the batch's own statistics and updates the collection ``"batch_stats"`` (ResNets only);
        patch dropout uses the random stream ``"patch_dropout"``.

        Args:
          batch: uint8 pixels ``[B, H, W, 3]`` under names that begin with ``image``, token ids ``[B, context_length]``
            under names that begin with ``text``; where a view has padding, bool ``[B, L]`` under its name + ``_mask``.
          train: whether this is a training step.
          rows: each row's index in the global batch, int ``[B]``, which seeds patch dropout; None: counted from 0.
          tokens: whether to return the features of each token too.
        """
        outputs = Outputs({}, {"scale": jnp.exp(self.logit_scale)}, {}, {})
        for modality, encode in (("image", self._encode_image), ("text", self._encode_text)):
            views = sorted(name for name in batch if name.startswith(modality) and not name.endswith("_mask"))
            if not views:
                continue
            inputs = jnp.concatenate([batch[view] for view in views])
            masks = [batch[f"{view}_mask"] for view in views if f"{view}_mask" in batch]
            first = jnp.arange(len(batch[views[0]])) if rows is None else rows
            row_indices = jnp.concatenate([len(views) * first + position for position in range(len(views))])
            encoded = encode(inputs, jnp.concatenate(masks) if masks else None, train, row_indices, tokens)
            parts = (unit(encoded.pooled), encoded.tokens, encoded.mask)
            for by_view, part in zip((outputs.embeddings, outputs.tokens, outputs.masks), parts, strict=True):
                if part is not None:
                    by_view.update(zip(views, jnp.split(part, len(views)), strict=True))
        return outputs

    def encode_image(self, image: jax.Array) -> jax.Array:
        """Encodes uint8 pixels ``[B, H, W, 3]`` as float32 unit rows ``[B, D]``."""
        return unit(self._encode_image(image).pooled)

    def encode_text(self, text: jax.Array) -> jax.Array:
        """Encodes token ids ``[B, context_length]`` as float32 unit rows ``[B, D]``."""
        return unit(self._encode_text(text).pooled)

    def _encode_image(
        self,
        image: jax.Array,
        mask: jax.Array | None = None,
        train: bool = False,
        rows: jax.Array | None = None,
        tokens: bool = False,
    ) -> Encoded:
        pixels = normalise(image, self.pixel_mean, self.pixel_std)
        return self.vision(pixels, mask, train=train and "vision" not in self.frozen, rows=rows, tokens=tokens)

    def _encode_text(
        self,
        text: jax.Array,
        mask: jax.Array | None = None,
        train: bool = False,
        rows: jax.Array | None = None,
        tokens: bool = False,
    ) -> Encoded:
        return self.text(text, mask, train=train and "text" not in self.frozen, rows=rows, tokens=tokens)


def join(parameters: dict[str, Any], batch_statistics: dict[str, Any]) -> Variables:
    """Returns Flax's collections with LoRA matrices merged; empty collections are omitted, as in Flax."""
    collections = {"params": merge(parameters), "batch_stats": batch_statistics}
    return {name: values for name, values in collections.items() if values}


def constrain(parameters: dict[str, Any]) -> dict[str, Any]:
    """Returns the parameters with the logit scale clipped to [0, log 100] after an update, as in CLIP."""
    return parameters | {"logit_scale": jnp.clip(parameters["logit_scale"], 0, MAX_LOGIT_SCALE)}


def digest(tokens: jax.Array) -> jax.Array:
    """Returns 64 bits for each row of token ids ``[B, L]``, equal for equal rows: uint32 ``[B, 2]``."""
    powers = [pow(base, exponent, 2**32) for base in _DIGEST_BASES for exponent in range(tokens.shape[-1])]
    table = jnp.asarray(np.asarray(powers, np.uint32).reshape(2, -1))
    return jnp.sum(tokens.astype(jnp.uint32)[:, None] * table, axis=-1, dtype=jnp.uint32)


def unit(x: jax.Array) -> jax.Array:
    """Returns rows ``[B, D]`` scaled to unit norm, in float32 or wider; zero rows stay zero, with finite gradients."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-24))


def build(config: ConfigDict, platform: str | None = None) -> Clip:
    """Builds the model that the settings under ``config.model`` describe.

    Args:
      config: the settings.
      platform: ``"gpu"``, ``"tpu"`` or ``"cpu"``, where it is computed; None: JAX's default backend.

    Raises:
      UserError: the settings do not describe a valid model.
    """
    preset = preset_of(config)
    execution = Execution(
        jnp.dtype(config.dtype),
        preset.activation,
        config.scan_layers,
        config.remat,
        config.attention,
        platform or jax.default_backend(),
    )
    return Clip(
        preset,
        execution,
        initial_logit_scale=config.initial_logit_scale,
        tokenizer=config.tokenizer,
        pixel_mean=tuple(config.pixel_mean),
        pixel_std=tuple(config.pixel_std),
    )


def abstract_batch(model: Clip) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes and dtypes of a batch of one image-text pair."""
    vision, text = model.preset.vision, model.preset.text
    return {
        "image": jax.ShapeDtypeStruct((1, vision.image_size, vision.image_size, 3), jnp.uint8),
        "text": jax.ShapeDtypeStruct((1, text.context_length), jnp.int32),
    }


def init_variables(model: Clip, key: jax.Array) -> Variables:
    """Initialises the model's variables."""
    return dict(model.init(key, {name: jnp.zeros(x.shape, x.dtype) for name, x in abstract_batch(model).items()}))


def abstract_variables(model: Clip) -> Variables:
    """Returns the shapes and dtypes of the model's variables without allocating them."""
    return jax.eval_shape(lambda: init_variables(model, jax.random.key(0)))
