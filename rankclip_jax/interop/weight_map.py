"""Where each of our tensors stands in other libraries' files: two tables, each read in both directions.

PyTorch's linear layers hold ``[out, in]`` where Flax holds ``[in, out]``, its convolutions ``[out, in, h, w]`` where
Flax holds ``[h, w, in, out]``; blocks, which we stack along a leading axis, have a name each.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from rankclip_jax.models.clip import Variables
from rankclip_jax.models.presets import Preset, ResNetPreset

LOGIT_BIAS = ("params", "logit_bias")  # a parameter of SigLIP's objective, for which these layouts have a name
_LINEAR = (1, 0)
_CONVOLUTION = (3, 2, 0, 1)


@dataclasses.dataclass(frozen=True)
class TensorMapping:
    """One tensor of a file.

    Args:
      name: in the file.
      path: of our tensor, from the collection on.
      axes: our axes in the file's order; None: the same order.
      layer: which block of our stack; None: ours has no such axis.
      part: which third of our last axis, for a file that keeps query, key and value apart; None: all of it.
    """

    name: str
    path: tuple[str, ...]
    axes: tuple[int, ...] | None = None
    layer: int | None = None
    part: int | None = None

    def view(self, variables: Variables) -> np.ndarray:
        """The file's tensor as a view into ours, which must be NumPy arrays."""
        tensor: Any = variables
        for key in self.path:
            tensor = tensor[key]
        if self.layer is not None:
            tensor = tensor[self.layer]
        if self.part is not None:
            third = tensor.shape[-1] // 3
            tensor = tensor[..., self.part * third : (self.part + 1) * third]
        return tensor if self.axes is None else tensor.transpose(self.axes)


def empty(like: Variables) -> Variables:
    """Arrays of the shapes and types of ``like``, to be filled; untouched memory costs nothing."""
    return jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)


def like(variables: Variables) -> Variables:
    """Arrays of the shapes and types of these that take no memory, to be looked at alone."""
    return jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), variables)


def batch_counters(places: list[TensorMapping]) -> list[str]:
    """Names of PyTorch's counts of batches, int64 scalars beside running means, which nothing here needs."""
    return [place.name.replace("running_mean", "num_batches_tracked") for place in places if "mean" in place.path]


def open_clip_map(preset: Preset, logit_bias: bool) -> list[TensorMapping]:
    """The layout of OpenAI's CLIP, which open_clip and the RankCLIP release share."""
    vision = ("params", "vision")
    if isinstance(preset.vision, ResNetPreset):
        image_tower = list(_resnet(preset.vision))
    else:
        image_tower = [
            TensorMapping("visual.conv1.weight", (*vision, "patch_embedding", "kernel"), _CONVOLUTION),
            TensorMapping("visual.class_embedding", (*vision, "class_embedding")),
            TensorMapping("visual.positional_embedding", (*vision, "positional_embedding")),
            *_norm("visual.ln_pre", (*vision, "pre_norm", "norm")),
            *_open_clip_blocks("visual.transformer.resblocks", vision, preset.vision.layers),
            *_norm("visual.ln_post", (*vision, "post_norm", "norm")),
            TensorMapping("visual.proj", (*vision, "projection", "kernel")),
        ]
    text = ("params", "text")
    return [
        *image_tower,
        TensorMapping("token_embedding.weight", (*text, "token_embedding", "embedding")),
        TensorMapping("positional_embedding", (*text, "positional_embedding")),
        *_open_clip_blocks("transformer.resblocks", text, preset.text.layers),
        *_norm("ln_final", (*text, "final_norm", "norm")),
        TensorMapping("text_projection", (*text, "projection", "kernel")),
        TensorMapping("logit_scale", ("params", "logit_scale")),
        *([TensorMapping("logit_bias", LOGIT_BIAS)] if logit_bias else []),
    ]


def hugging_face_map(preset: Preset) -> list[TensorMapping]:
    """The layout of ``transformers.CLIPModel``, which has transformers only."""
    assert not isinstance(preset.vision, ResNetPreset)
    vision, text = ("params", "vision"), ("params", "text")
    return [
        TensorMapping(
            "vision_model.embeddings.patch_embedding.weight", (*vision, "patch_embedding", "kernel"), _CONVOLUTION
        ),
        TensorMapping("vision_model.embeddings.class_embedding", (*vision, "class_embedding")),
        TensorMapping("vision_model.embeddings.position_embedding.weight", (*vision, "positional_embedding")),
        *_norm("vision_model.pre_layrnorm", (*vision, "pre_norm", "norm")),  # sic
        *_hugging_face_blocks("vision_model.encoder.layers", vision, preset.vision.layers),
        *_norm("vision_model.post_layernorm", (*vision, "post_norm", "norm")),
        TensorMapping("visual_projection.weight", (*vision, "projection", "kernel"), _LINEAR),
        TensorMapping("text_model.embeddings.token_embedding.weight", (*text, "token_embedding", "embedding")),
        TensorMapping("text_model.embeddings.position_embedding.weight", (*text, "positional_embedding")),
        *_hugging_face_blocks("text_model.encoder.layers", text, preset.text.layers),
        *_norm("text_model.final_layer_norm", (*text, "final_norm", "norm")),
        TensorMapping("text_projection.weight", (*text, "projection", "kernel"), _LINEAR),
        TensorMapping("logit_scale", ("params", "logit_scale")),
    ]


def _open_clip_blocks(prefix: str, tower: tuple[str, ...], layers: int) -> Iterator[TensorMapping]:
    blocks = (*tower, "transformer", "blocks")
    for layer in range(layers):
        name = f"{prefix}.{layer}"
        yield from _norm(f"{name}.ln_1", (*blocks, "attention_norm", "norm"), layer)
        yield TensorMapping(f"{name}.attn.in_proj_weight", (*blocks, "attention_in", "kernel"), _LINEAR, layer)
        yield TensorMapping(f"{name}.attn.in_proj_bias", (*blocks, "attention_in", "bias"), None, layer)
        yield from _linear(f"{name}.attn.out_proj", (*blocks, "attention_out"), layer)
        yield from _norm(f"{name}.ln_2", (*blocks, "mlp_norm", "norm"), layer)
        yield from _linear(f"{name}.mlp.c_fc", (*blocks, "mlp_in"), layer)
        yield from _linear(f"{name}.mlp.c_proj", (*blocks, "mlp_out"), layer)


def _hugging_face_blocks(prefix: str, tower: tuple[str, ...], layers: int) -> Iterator[TensorMapping]:
    blocks = (*tower, "transformer", "blocks")
    for layer in range(layers):
        name = f"{prefix}.{layer}"
        yield from _norm(f"{name}.layer_norm1", (*blocks, "attention_norm", "norm"), layer)
        for part, letter in enumerate("qkv"):
            yield from _linear(f"{name}.self_attn.{letter}_proj", (*blocks, "attention_in"), layer, part)
        yield from _linear(f"{name}.self_attn.out_proj", (*blocks, "attention_out"), layer)
        yield from _norm(f"{name}.layer_norm2", (*blocks, "mlp_norm", "norm"), layer)
        yield from _linear(f"{name}.mlp.fc1", (*blocks, "mlp_in"), layer)
        yield from _linear(f"{name}.mlp.fc2", (*blocks, "mlp_out"), layer)


def _resnet(preset: ResNetPreset) -> Iterator[TensorMapping]:
    for number in (1, 2, 3):
        yield _convolution(f"visual.conv{number}", f"stem_convolution_{number}")
        yield from _batch_norm(f"visual.bn{number}", f"stem_norm_{number}")
    for stage, layers in enumerate(preset.layers, 1):
        for layer in range(layers):
            theirs, ours = f"visual.layer{stage}.{layer}", f"stage_{stage}_block_{layer + 1}"
            for number in (1, 2, 3):
                yield _convolution(f"{theirs}.conv{number}", ours, f"convolution_{number}")
                yield from _batch_norm(f"{theirs}.bn{number}", ours, f"norm_{number}")
            if layer == 0:
                yield _convolution(f"{theirs}.downsample.0", ours, "shortcut_convolution")
                yield from _batch_norm(f"{theirs}.downsample.1", ours, "shortcut_norm")
    pool = ("params", "vision", "attention_pool")
    yield TensorMapping("visual.attnpool.positional_embedding", (*pool, "positional_embedding"))
    for theirs, ours in (("k_proj", "key"), ("q_proj", "query"), ("v_proj", "value"), ("c_proj", "output")):
        yield from _linear(f"visual.attnpool.{theirs}", (*pool, ours))


def _linear(
    name: str, path: tuple[str, ...], layer: int | None = None, part: int | None = None
) -> Iterator[TensorMapping]:
    yield TensorMapping(f"{name}.weight", (*path, "kernel"), _LINEAR, layer, part)
    yield TensorMapping(f"{name}.bias", (*path, "bias"), None, layer, part)


def _norm(name: str, path: tuple[str, ...], layer: int | None = None) -> Iterator[TensorMapping]:
    yield TensorMapping(f"{name}.weight", (*path, "scale"), None, layer)
    yield TensorMapping(f"{name}.bias", (*path, "bias"), None, layer)


def _batch_norm(name: str, *path: str) -> Iterator[TensorMapping]:
    yield from _norm(name, ("params", "vision", *path))
    yield TensorMapping(f"{name}.running_mean", ("batch_stats", "vision", *path, "mean"))
    yield TensorMapping(f"{name}.running_var", ("batch_stats", "vision", *path, "var"))


def _convolution(name: str, *path: str) -> TensorMapping:
    return TensorMapping(f"{name}.weight", ("params", "vision", *path, "kernel"), _CONVOLUTION)
