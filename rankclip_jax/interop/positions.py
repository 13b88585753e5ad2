"""Position embeddings for images of another size."""

import jax
import jax.numpy as jnp
import numpy as np

from rankclip_jax.models.clip import Variables
from rankclip_jax.models.presets import Preset, ResNetPreset


def resize(variables: Variables, preset: Preset, image_size: int) -> Variables:
    """Weights of a model for images of ``image_size`` pixels, from those of ``preset``.

    The grid of position embeddings is an image, resized with bicubic anti-aliased interpolation as open_clip does; the
    first embedding, of the class token or of a ResNet's mean, has no position and stays.
    """
    vision = preset.vision
    old, new = vision.image_size // vision.stride, image_size // vision.stride
    if old == new:
        return variables
    tower = variables["params"]["vision"]
    pooled = isinstance(vision, ResNetPreset)
    holder = tower["attention_pool"] if pooled else tower
    embedding = np.asarray(holder["positional_embedding"])
    first, grid = np.split(embedding, [len(embedding) - old * old])
    grid = jax.image.resize(jnp.asarray(grid.reshape(old, old, -1)), (new, new, grid.shape[-1]), "cubic")
    holder = holder | {"positional_embedding": np.concatenate([first, np.asarray(grid).reshape(new * new, -1)])}
    tower = tower | {"attention_pool": holder} if pooled else holder
    return variables | {"params": variables["params"] | {"vision": tower}}
