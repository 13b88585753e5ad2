"""A model to use from Python: images and texts of any number to embeddings."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from input_pipeline import images as decoding
from input_pipeline.errors import UnreadableError, UserError
from input_pipeline.tokenizer import tokenize
from rankclip_jax.evaluation.encoding import compile_tower
from rankclip_jax.models.clip import Clip, Variables
from rankclip_jax.parallel.mesh import make_local_mesh, replicated, to_devices

BATCH_SIZE = 256  # rows a device encodes at once, at most

ImageLike = np.ndarray | Image.Image | str | Path


class Encoder:
    """The two towers of a model and its weights, on all devices of this process.

    Rows are filled up to the next power of two, so that each tower is compiled for a few sizes only.

    Args:
      variables: the weights.
      dtype: type of the computation; in ``"float32"`` matrix products are not rounded to fewer digits on any device.
    """

    def __init__(self, model: Clip, variables: Variables, dtype: str = "float32") -> None:
        execution = dataclasses.replace(model.execution, dtype=jnp.dtype(dtype))
        self.model = model.clone(execution=execution)
        self._precision = "highest" if dtype == "float32" else None
        self._mesh = make_local_mesh()
        self._variables = jax.device_put(variables, replicated(self._mesh))
        self._encode_image = compile_tower(self.model, self._mesh, "encode_image")
        self._encode_text = compile_tower(self.model, self._mesh, "encode_text")

    @property
    def logit_scale(self) -> float:
        """What similarities are multiplied by before a softmax over them."""
        return float(np.exp(self._variables["params"]["logit_scale"]))

    def encode_image(self, images: Sequence[ImageLike]) -> np.ndarray:
        """Unit embeddings of images: float32 ``[n, D]``.

        Args:
          images: n arrays (uint8 ``[H, W, 3]``), PIL images, or paths of image files, of any sizes.

        Raises:
          UserError: a file that cannot be read; it is named.
          TypeError: something that is no image.
        """
        size = self.model.preset.vision.image_size
        return self._encode(
            len(images),
            lambda rows: np.stack([_pixels(images[row], size) for row in rows]),
            self._encode_image,
        )

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Unit embeddings of texts: float32 ``[n, D]``."""
        tokens = tokenize(texts, self.model.preset.text.context_length)
        return self._encode(len(texts), lambda rows: tokens[rows], self._encode_text)

    def _encode(
        self,
        count: int,
        rows_of: Callable[[range], np.ndarray],
        encode: Callable[[Variables, jax.Array], jax.Array],
    ) -> np.ndarray:
        chunks = [np.zeros((0, self.model.preset.embedding_size), np.float32)]
        at_once = BATCH_SIZE * self._mesh.size
        with jax.default_matmul_precision(self._precision) if self._precision else contextlib.nullcontext():
            for start in range(0, count, at_once):
                rows = rows_of(range(start, min(start + at_once, count)))
                bucket = self._mesh.size
                while bucket < len(rows):
                    bucket *= 2
                filled = np.concatenate([rows, np.repeat(rows[:1], bucket - len(rows), axis=0)])
                on_devices = to_devices({"rows": filled}, self._mesh)["rows"]
                chunks.append(np.asarray(encode(self._variables, on_devices))[: len(rows)])
        return np.concatenate(chunks)


def _pixels(image: ImageLike, image_size: int) -> np.ndarray:
    if isinstance(image, str | Path):
        try:
            return decoding.evaluation_view(decoding.open_image(Path(image)), image_size)
        except UnreadableError as error:
            raise UserError(f"{image}: cannot be read: {error}. Mend the file or leave it out.") from error
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise TypeError(f"expected an image as uint8 [H, W, 3]; found {image.dtype} {list(image.shape)}")
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise TypeError(f"expected an array, a PIL image or a path; found {type(image).__name__}")
    return decoding.evaluation_view(image, image_size)
