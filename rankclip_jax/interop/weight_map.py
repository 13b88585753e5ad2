"""Where each tensor of a model stands in other libraries' files, read in both directions.

Each encoder family has its own part of these tables; here they become a model's.
"""

import jax
import numpy as np

from rankclip_jax.models.clip import Variables
from rankclip_jax.models.encoder import Library, TensorMapping
from rankclip_jax.models.presets import Preset

LOGIT_BIAS = ("params", "logit_bias")  # a parameter of SigLIP's objective, for which these layouts have a name


def weight_map(preset: Preset, library: Library, logit_bias: bool = False) -> list[TensorMapping]:
    """Every tensor of a model in a library's file.

    ``"open_clip"`` is the layout of OpenAI's CLIP, which open_clip and the RankCLIP release share; ``"hugging_face"``
    is that of ``transformers.CLIPModel``.

    Raises:
      UserError: the library has no such model.
    """
    return [
        *(mapping.within("vision") for mapping in preset.vision.weight_map(library)),
        *(mapping.within("text") for mapping in preset.text.weight_map(library)),
        TensorMapping("logit_scale", ("params", "logit_scale")),
        *([TensorMapping("logit_bias", LOGIT_BIAS)] if logit_bias else []),
    ]


def empty(like: Variables) -> Variables:
    """Arrays of the shapes and types of ``like``, to be filled; untouched memory costs nothing."""
    return jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)


def like(variables: Variables) -> Variables:
    """Arrays of the shapes and types of these that take no memory, to be looked at alone."""
    return jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), variables)


def batch_counters(mappings: list[TensorMapping]) -> list[str]:
    """Names of PyTorch's counts of batches, int64 scalars beside running means, which nothing here needs."""
    means = (mapping.name for mapping in mappings if mapping.path[0] == "batch_stats" and mapping.path[-1] == "mean")
    return [name.replace("running_mean", "num_batches_tracked") for name in means]
