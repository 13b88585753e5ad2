"""The Python interface to a model: encodes any number of images and texts as embeddings."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from rankclip_jax.distributed.mesh import make_local_mesh
from rankclip_jax.distributed.sharding import Layout
from rankclip_jax.evaluation.embedder import Embedder
from rankclip_jax.input_pipeline import images as decoding
from rankclip_jax.input_pipeline.errors import UnreadableError, UserError
from rankclip_jax.input_pipeline.files import printable
from rankclip_jax.models.clip import Clip, Variables

ImageLike = np.ndarray | Image.Image | str | Path


class Encoder:
    """The encoders of a model and its weights, on all devices of this process.

    Args:
      model: the model.
      variables: the weights.
      dtype: compute dtype; ``"float32"`` uses full-precision matrix products on every device.
    """

    def __init__(self, model: Clip, variables: Variables, dtype: str = "float32") -> None:
        execution = dataclasses.replace(model.execution, dtype=jnp.dtype(dtype))
        self.model = model.clone(execution=execution)
        self._precision = "highest" if dtype == "float32" else None
        layout = Layout(make_local_mesh())
        self._variables = jax.device_put(variables, layout.replicated)
        self._embedder = Embedder(self.model, layout)

    @property
    def logit_scale(self) -> float:
        """The multiplier of similarities before a softmax."""
        return float(np.exp(self._variables["params"]["logit_scale"]))

    def encode_image(self, images: Sequence[ImageLike]) -> np.ndarray:
        """Returns unit embeddings of images: float32 ``[n, D]``.

        Args:
          images: n arrays (uint8 ``[H, W, 3]``), PIL images, or paths of image files, of any sizes. An image opened by
            `PIL.Image.open` is rotated by its EXIF orientation and converted to 8 bits, as its file would be.

        Raises:
          UserError: a file cannot be read; the message names it.
          TypeError: an item is not an image, or a single image is given instead of a list.
        """
        if isinstance(images, str | bytes | Path | Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4):
            raise TypeError(f"expected a list of images, such as [image]; found a single {type(images).__name__}")
        size = self.model.preset.vision.image_size
        with self._matmul_precision():
            return self._embedder.images(
                self._variables, len(images), lambda rows: np.stack([_pixels(images[row], size) for row in rows])
            )

    def encode_text(self, texts: Sequence[str]) -> np.ndarray:
        """Returns unit embeddings of texts: float32 ``[n, D]``.

        Raises:
          TypeError: a single text is given instead of a list.
        """
        with self._matmul_precision():
            return self._embedder.texts(self._variables, texts)

    def _matmul_precision(self) -> contextlib.AbstractContextManager:
        return jax.default_matmul_precision(self._precision) if self._precision else contextlib.nullcontext()


def _pixels(image: ImageLike, image_size: int) -> np.ndarray:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
            empty = "" if image.size else ", without pixels"
            raise TypeError(f"expected an image as uint8 [H, W, 3]; found {image.dtype} {list(image.shape)}{empty}")
        return decoding.evaluation_view(Image.fromarray(image), image_size)
    if not isinstance(image, str | Path | Image.Image):
        raise TypeError(f"expected an array, a PIL image or a path; found {type(image).__name__}")
    try:
        opened = decoding.as_opened(image) if isinstance(image, Image.Image) else decoding.open_image(Path(image))
    except UnreadableError as error:
        name = getattr(image, "filename", "an opened image") if isinstance(image, Image.Image) else image
        raise UserError(f"{printable(name)}: cannot be read: {error}. Fix or remove the file.") from error
    return decoding.evaluation_view(opened, image_size)
