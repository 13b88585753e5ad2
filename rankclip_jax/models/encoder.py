"""The interface of an encoder family: its sizes and options, its module, and its weight map for other libraries.

A family is one file with a subclass of `VisionConfig` or `TextConfig` and a Flax module. Register it with a row in
`families.py`, or select it with ``config.model.vision.family="package.module:Name"``.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Self

import flax.linen as nn
import jax
import numpy as np
import optax

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.setting import Range, Settings, setting
from rankclip_jax.models.execution import Execution

Library = Literal["open_clip", "hugging_face"]


class Encoded(NamedTuple):
    """The outputs of an encoder.

    Args:
      pooled: ``[B, D]``, not yet of unit norm.
      tokens: the features of each token, ``[B, L, W]``; None: not requested.
      mask: bool ``[B, L]``, True for tokens that are not padding; None: no padding.
    """

    pooled: jax.Array
    tokens: jax.Array | None = None
    mask: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class TensorMapping:
    """Maps one tensor of another library's file to an array among an encoder's variables.

    PyTorch stores linear layers as ``[out, in]`` where Flax has ``[in, out]``, and convolutions as ``[out, in, h, w]``
    where Flax has ``[h, w, in, out]``. Our blocks are stacked along a leading axis; PyTorch names each block.

    Args:
      name: the tensor's name in the file.
      path: the path of our array, including the collection, such as ``("params", "projection", "kernel")``.
      axes: the permutation of our axes that gives the file's order; None: the same order.
      layer: the block's index in our stack; None: our array has no layer axis.
      part: the third of our last axis, for files that store query, key and value separately; None: the whole axis.
    """

    name: str
    path: tuple[str, ...]
    axes: tuple[int, ...] | None = None
    layer: int | None = None
    part: int | None = None

    def within(self, encoder: str) -> "TensorMapping":
        """Returns this mapping with its path in the variables of a whole model, where the encoder has this name."""
        return dataclasses.replace(self, path=(self.path[0], encoder, *self.path[1:]))

    def view(self, variables: Mapping[str, Any]) -> np.ndarray:
        """Returns the file's tensor as a view into our variables, which must be NumPy arrays."""
        tensor: Any = variables
        for key in self.path:
            tensor = tensor[key]
        if self.layer is not None:
            tensor = tensor[self.layer]
        if self.part is not None:
            third = tensor.shape[-1] // 3
            tensor = tensor[..., self.part * third : (self.part + 1) * third]
        return tensor if self.axes is None else tensor.transpose(self.axes)


class EncoderConfig(Settings, abc.ABC):
    """The sizes and options of an encoder, each declared with `setting`."""

    # Whether it normalises by batch statistics, which rules out gradient accumulation over micro-batches.
    has_batch_statistics: ClassVar[bool] = False

    @abc.abstractmethod
    def module(self, embedding_size: int, execution: Execution) -> nn.Module | None:
        """Returns the Flax module ``(inputs, mask=None, *, train=False, rows=None, tokens=False) -> Encoded``.

        ``inputs`` are float pixels ``[B, H, W, 3]`` or token ids ``[B, L]``; ``mask`` is True at positions that are
        not padding; ``rows`` are the rows' indices in the global batch, which seed random draws; ``tokens`` requests
        the features of each token. A family that supports no masks or tokens raises NotImplementedError for them.
        None: texts are encoded by the image encoder's module.
        """

    def check(self, flag: str) -> None:
        """Raises a UserError that names ``flag`` if the sizes are inconsistent."""

    def weight_map(self, library: Library) -> list[TensorMapping]:
        """Returns the mapping of each of this encoder's tensors in a library's file.

        Raises:
          UserError: the library has no equivalent encoder.
        """
        raise UserError(f"--format: {type(self).__name__} has no layout in {library}. Use the run from Python.")

    @classmethod
    def from_open_clip(cls, config: Mapping[str, Any]) -> Self | None:
        """Returns the encoder for ``vision_cfg`` or ``text_cfg`` of an open_clip JSON file; None: another family's.

        Raises:
          UserError: the file describes this family, but with an option that is not supported.
        """
        del config
        return None

    def to_open_clip(self) -> dict[str, Any]:
        """Returns this encoder's ``vision_cfg`` or ``text_cfg`` for an open_clip JSON file."""
        raise UserError(f"--format: open_clip cannot build a {type(self).__name__}. Use the run from Python.")


@dataclasses.dataclass(frozen=True)
class VisionConfig(EncoderConfig):
    """The sizes and options of an image encoder."""

    unit: ClassVar[str] = "patches"  # the name of `positions` in messages
    # Whether its module takes token ids ``[B, L]`` too, so that it can encode the texts (`SharedTextConfig`).
    encodes_text: ClassVar[bool] = False

    image_size: int = setting(224, "side of the images in pixels", Range(1, 2048))

    @abc.abstractmethod
    def module(self, embedding_size: int, execution: Execution) -> nn.Module:
        """Returns the Flax module, as in `EncoderConfig.module`; an image encoder has its own."""

    @property
    @abc.abstractmethod
    def stride(self) -> int:
        """Pixels between positions of the last feature grid; the image size must be a multiple of it."""

    @property
    def positions(self) -> int:
        """The number of positions in the last feature grid, such as patches."""
        return (self.image_size // self.stride) ** 2

    def resize_positions(self, parameters: optax.Params, image_size: int) -> optax.Params:
        """Returns this encoder's parameters, with position embeddings resized for another image size."""
        del image_size
        return parameters


@dataclasses.dataclass(frozen=True)
class TextConfig(EncoderConfig):
    """The sizes and options of a text encoder."""

    context_length: int = setting(77, "tokens of a text", Range(3, 2**14))
    vocabulary_size: int = setting(49_408, "token ids, at least as many as the tokenizer has", Range(1, 2**20))


def resize_grid(embedding: jax.Array | np.ndarray, old: int, new: int) -> np.ndarray:
    """Resizes position embeddings ``[n + old * old, W]`` to a grid of another side: ``[n + new * new, W]``.

    The grid is resized as an image, with bicubic anti-aliased interpolation as in open_clip. The first n embeddings,
    such as a class token's, have no grid position and stay unchanged.
    """
    embedding = np.asarray(embedding)
    first, grid = np.split(embedding, [len(embedding) - old * old])
    resized = jax.image.resize(grid.reshape(old, old, -1), (new, new, grid.shape[-1]), "cubic")
    return np.concatenate([first, np.asarray(resized).reshape(new * new, -1)])


LINEAR = (1, 0)
CONVOLUTION = (3, 2, 0, 1)


def linear_map(
    name: str, *path: str, layer: int | None = None, part: int | None = None, bias: bool = True
) -> list[TensorMapping]:
    """Returns the mappings of a PyTorch ``Linear`` layer."""
    mappings = [TensorMapping(f"{name}.weight", ("params", *path, "kernel"), LINEAR, layer, part)]
    return (
        [*mappings, TensorMapping(f"{name}.bias", ("params", *path, "bias"), None, layer, part)] if bias else mappings
    )


def norm_map(name: str, *path: str, layer: int | None = None) -> list[TensorMapping]:
    """Returns the mappings of a PyTorch normalisation layer."""
    return [
        TensorMapping(f"{name}.weight", ("params", *path, "scale"), None, layer),
        TensorMapping(f"{name}.bias", ("params", *path, "bias"), None, layer),
    ]
