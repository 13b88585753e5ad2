"""What an encoder family provides: its sizes and options, its module, and where its weights stand in other files.

A family is one file: a subclass of `VisionConfig` or `TextConfig` and a Flax module, and a row in `families.py`, or
``config.model.vision.family="package.module:Name"``.
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
    """What an encoder returns.

    Args:
      pooled: ``[B, D]``, not yet of unit norm.
      tokens: the features of each place of the input, ``[B, L, W]``; None: they were not asked for.
      mask: bool ``[B, L]``, which tokens are of the input rather than padding; None: all.
    """

    pooled: jax.Array
    tokens: jax.Array | None = None
    mask: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class TensorMapping:
    """Where one tensor of another library's file stands among an encoder's variables.

    PyTorch's linear layers hold ``[out, in]`` where Flax holds ``[in, out]``, its convolutions ``[out, in, h, w]``
    where Flax holds ``[h, w, in, out]``; blocks, which we stack along a leading axis, have a name each there.

    Args:
      name: in the file.
      path: of our array, from the collection on, such as ``("params", "projection", "kernel")``.
      axes: our axes in the file's order; None: the same order.
      layer: which block of our stack; None: ours has no such axis.
      part: which third of our last axis, for a file that keeps query, key and value apart; None: all of it.
    """

    name: str
    path: tuple[str, ...]
    axes: tuple[int, ...] | None = None
    layer: int | None = None
    part: int | None = None

    def within(self, encoder: str) -> "TensorMapping":
        """The same from the variables of a whole model, in which the encoder has this name."""
        return dataclasses.replace(self, path=(self.path[0], encoder, *self.path[1:]))

    def view(self, variables: Mapping[str, Any]) -> np.ndarray:
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


class EncoderConfig(Settings, abc.ABC):
    """The sizes and options of an encoder, each declared with `setting`."""

    # Whether it normalises by the statistics of a batch, which micro-batches do not have.
    has_batch_statistics: ClassVar[bool] = False

    @abc.abstractmethod
    def module(self, embedding_size: int, execution: Execution) -> nn.Module:
        """The module ``(inputs, mask=None, *, train=False, rows=None, tokens=False) -> Encoded``.

        ``inputs`` are float pixels ``[B, H, W, 3]`` or token ids ``[B, L]``, ``mask`` says which of their places are
        not padding, ``rows`` are the rows' numbers in the global batch, which random draws follow, and ``tokens`` asks
        for the features of each place. A family without masks or tokens raises NotImplementedError when asked.
        """

    def check(self, flag: str) -> None:
        """Raises UserError, which names ``flag``, for sizes that do not go together."""

    def weight_map(self, library: Library) -> list[TensorMapping]:
        """Every tensor of a library's file that is this encoder's.

        Raises:
          UserError: the library has no such encoder.
        """
        raise UserError(f"--format: {type(self).__name__} has no layout in {library}. Use the run from Python.")

    @classmethod
    def from_open_clip(cls, config: Mapping[str, Any]) -> Self | None:
        """The encoder that ``vision_cfg`` or ``text_cfg`` of an open_clip JSON file describes; None: another family's.

        Raises:
          UserError: it is of this family, with an option that the family lacks.
        """
        del config
        return None

    def to_open_clip(self) -> dict[str, Any]:
        """The ``vision_cfg`` or ``text_cfg`` of an open_clip JSON file that describes this encoder."""
        raise UserError(f"--format: open_clip cannot build a {type(self).__name__}. Use the run from Python.")


@dataclasses.dataclass(frozen=True)
class VisionConfig(EncoderConfig):
    """An image encoder."""

    unit: ClassVar[str] = "patches"  # what `positions` are called

    image_size: int = setting(224, "side of the images in pixels", Range(1, 2048))

    @property
    @abc.abstractmethod
    def stride(self) -> int:
        """Pixels between the positions of the last grid, of which the image size is a multiple."""

    @property
    def positions(self) -> int:
        """Positions of the last grid, such as patches."""
        return (self.image_size // self.stride) ** 2

    def resize_positions(self, parameters: optax.Params, image_size: int) -> optax.Params:
        """This encoder's parameters for images of another size; unchanged where no parameter depends on it."""
        del image_size
        return parameters


@dataclasses.dataclass(frozen=True)
class TextConfig(EncoderConfig):
    """A text encoder."""

    context_length: int = setting(77, "tokens of a text", Range(3, 2**14))
    vocabulary_size: int = setting(49_408, "token ids, at least as many as the tokenizer has", Range(1, 2**20))


def resize_grid(embedding: jax.Array | np.ndarray, old: int, new: int) -> np.ndarray:
    """Position embeddings ``[n + old * old, W]`` for a grid of another side: ``[n + new * new, W]``.

    The grid is an image, resized with bicubic anti-aliased interpolation as open_clip does; the first n, such as a
    class token's, have no position and stay.
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
    """PyTorch's ``Linear``."""
    mappings = [TensorMapping(f"{name}.weight", ("params", *path, "kernel"), LINEAR, layer, part)]
    return (
        [*mappings, TensorMapping(f"{name}.bias", ("params", *path, "bias"), None, layer, part)] if bias else mappings
    )


def norm_map(name: str, *path: str, layer: int | None = None) -> list[TensorMapping]:
    """PyTorch's normalisation layers."""
    return [
        TensorMapping(f"{name}.weight", ("params", *path, "scale"), None, layer),
        TensorMapping(f"{name}.bias", ("params", *path, "bias"), None, layer),
    ]
