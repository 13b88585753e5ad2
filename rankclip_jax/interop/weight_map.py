"""The weight map of a model: the mapping of its tensors to other libraries' files, used for import and export.

Each encoder family defines its own mappings; this module combines them.
"""

import jax
import numpy as np

from rankclip_jax.models.clip import Variables
from rankclip_jax.models.encoder import Library, TensorMapping
from rankclip_jax.models.presets import Preset

LOGIT_BIAS = ("params", "logit_bias")  # a parameter of SigLIP's objective that open_clip's layout has too


def weight_map(preset: Preset, library: Library, logit_bias: bool = False) -> list[TensorMapping]:
    """Returns the mapping of each tensor of a model in a library's file.

    ``"open_clip"`` is the layout of OpenAI's CLIP, which open_clip and the RankCLIP release share; ``"hugging_face"``
    is that of ``transformers.CLIPModel``.

    Raises:
      UserError: the library has no equivalent model.
    """
    return [
        *(mapping.within("vision") for mapping in preset.vision.weight_map(library)),
        *(mapping.within("text") for mapping in preset.text.weight_map(library)),
        TensorMapping("logit_scale", ("params", "logit_scale")),
        *([TensorMapping("logit_bias", LOGIT_BIAS)] if logit_bias else []),
    ]


def empty(like: Variables) -> Variables:
    """Returns uninitialised arrays with the shapes and dtypes of ``like``."""
    return jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)


def like(variables: Variables) -> Variables:
    """Returns read-only zeros with the shapes and dtypes of ``variables``, broadcast from scalars to use no memory."""
    return jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), variables)


def batch_counters(mappings: list[TensorMapping]) -> list[str]:
    """Returns the names of PyTorch's ``num_batches_tracked``, int64 scalars next to running means, unused here."""
    means = (mapping.name for mapping in mappings if mapping.path[0] == "batch_stats" and mapping.path[-1] == "mean")
    return [name.replace("running_mean", "num_batches_tracked") for name in means]
