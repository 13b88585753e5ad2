"""One transformer for images and texts, as a user's own encoder: ``--config.model.text.family=shared``."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from rankclip_jax.input_pipeline.setting import Range, setting
from rankclip_jax.models.encoder import Encoded, VisionConfig


@dataclasses.dataclass(frozen=True)
class OneTower(VisionConfig):
    encodes_text = True
    width: int = setting(32, "channels", Range(1, 1024))

    @property
    def stride(self):
        return 8

    def module(self, embedding_size, execution):
        return OneTowerModule(self.width, embedding_size)


class OneTowerModule(nn.Module):
    width: int
    embedding_size: int

    @nn.compact
    def __call__(self, inputs, mask=None, *, train=False, rows=None, tokens=False):
        if inputs.ndim == 4:
            x = nn.Conv(self.width, (8, 8), strides=8, name="patches")(inputs).reshape(len(inputs), -1, self.width)
        else:
            x = nn.Embed(49_408, self.width, name="words")(inputs)
        x = x + nn.Dense(self.width, name="shared")(nn.gelu(x))
        return Encoded(nn.Dense(self.embedding_size, name="projection")(jnp.mean(x, axis=1)), x if tokens else None)
