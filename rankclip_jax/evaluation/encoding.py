"""Embeddings of a whole dataset, computed by all devices of all processes."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from input_pipeline.loader import evaluation_batches
from input_pipeline.source import Source
from input_pipeline.tokenizer import tokenize
from rankclip_jax.models.clip import Clip, Variables
from rankclip_jax.parallel.mesh import replicated, split_rows, to_devices


def compile_tower(model: Clip, mesh: Mesh, method: str) -> Callable[[Variables, jax.Array], jax.Array]:
    """``(variables, rows split over the mesh) -> unit embeddings on every device``, compiled once for each shape.

    Args:
      method: ``"encode_image"`` or ``"encode_text"``.
    """

    def encode(variables: Variables, rows: jax.Array) -> jax.Array:
        embeddings = model.apply(variables, rows, method=method)
        assert isinstance(embeddings, jax.Array)
        return embeddings

    return jax.jit(encode, in_shardings=(replicated(mesh), split_rows(mesh)), out_shardings=replicated(mesh))


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Unit embeddings ``[n, D]`` of n pairs, and each pair's number in its dataset ``[n]``."""

    image: np.ndarray
    text: np.ndarray
    index: np.ndarray


class DatasetEncoder:
    """The two towers of a model on all devices of all processes, compiled once for a fixed number of rows.

    Args:
      batch_size: rows encoded at once over all devices; rounded up to a multiple of their number.
    """

    def __init__(self, model: Clip, mesh: Mesh, batch_size: int) -> None:
        self._preset = model.preset
        self._mesh = mesh
        self._batch_size = -(-batch_size // mesh.size) * mesh.size

        self._encode_image = compile_tower(model, mesh, "encode_image")
        self._encode_text = compile_tower(model, mesh, "encode_text")
        self._gather = jax.jit(lambda x: x, out_shardings=replicated(mesh))

    def pairs(self, variables: Variables, source: Source, size: int) -> Encoded:
        """The first ``size`` pairs of a dataset, without those whose image cannot be read."""
        images, texts, valid = [], [], []
        for batch in evaluation_batches(
            source,
            image_size=self._preset.vision.image_size,
            context_length=self._preset.text.context_length,
            batch_size=self._batch_size,
            size=size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        ):
            on_devices = to_devices({name: batch[name] for name in ("image", "text", "valid")}, self._mesh)
            images.append(np.asarray(self._encode_image(variables, on_devices["image"])))
            texts.append(np.asarray(self._encode_text(variables, on_devices["text"])))
            valid.append(np.asarray(self._gather(on_devices["valid"])))
        index = np.flatnonzero(np.concatenate(valid))
        return Encoded(np.concatenate(images)[index], np.concatenate(texts)[index], index)

    def texts(self, variables: Variables, texts: list[str]) -> np.ndarray:
        """Embeddings of any texts: float32 ``[n, D]``."""
        tokens = tokenize(texts, self._preset.text.context_length)
        rows = []
        for start in range(0, len(texts), self._batch_size):
            batch = tokens[start : start + self._batch_size]
            filled = np.concatenate([batch, np.repeat(batch[:1], self._batch_size - len(batch), axis=0)])
            local = np.split(filled, jax.process_count())[jax.process_index()]
            encoded = self._encode_text(variables, to_devices({"text": local}, self._mesh)["text"])
            rows.append(np.asarray(encoded)[: len(batch)])
        return np.concatenate(rows)
