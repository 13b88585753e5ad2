"""The two towers at work: rows, lists of texts and whole datasets to unit embeddings."""

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Sequence

import jax
import numpy as np

from rankclip_jax.distributed.processes import max_across_processes
from rankclip_jax.distributed.sharding import Layout
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.images import MAX_PIXELS
from rankclip_jax.input_pipeline.loader import evaluation_batches
from rankclip_jax.input_pipeline.source import Source
from rankclip_jax.input_pipeline.tokenizers import TOKENIZERS
from rankclip_jax.models.clip import Clip, Variables

_LOGGER = logging.getLogger(__name__)
ROWS_A_DEVICE = 256  # encoded at once, at most
PADDING_INDEX = -1  # the number of a row that is no record


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Unit embeddings of a dataset.

    Args:
      image: ``[n, D]``.
      text: ``[m, D]``, at least one for each image.
      image_of_text: int ``[m]``, the row of the image that each text belongs to; texts of an image stand together.
      index: int ``[n]``, each image's number in its dataset.
      sentence: int ``[m]``, a number that texts have in common which read the same to the model.
      unreadable: int ``[u]``, the numbers of the records whose image could not be read, of which ``image`` has no row.
      unreadable_text: ``[k, D]``, their texts, as far as they are known.
      unreadable_sentence: int ``[k]``, as ``sentence``.
    """

    image: np.ndarray
    text: np.ndarray
    image_of_text: np.ndarray
    index: np.ndarray
    sentence: np.ndarray
    unreadable: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))
    unreadable_text: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0), np.float32))
    unreadable_sentence: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def records(self) -> list[int]:
        """The numbers of all records: of those with a row in ``image``, and after them of the others."""
        return [*self.index.tolist(), *self.unreadable.tolist()]

    @property
    def first_text(self) -> np.ndarray:
        """Each image's first text: ``[n, D]``."""
        return self.text[np.searchsorted(self.image_of_text, np.arange(len(self.image)))]


class Embedder:
    """The towers of a model on the devices of a layout, compiled when first used.

    Rows are filled up to the next power of two, so that each tower is compiled for a few sizes only.

    Args:
      model: the towers.
      layout: the devices that share the rows; every process of them must make the same calls.
    """

    def __init__(self, model: Clip, layout: Layout) -> None:
        self.model, self.layout = model, layout
        self._tokenizer = TOKENIZERS[model.tokenizer]()
        self._image = self._compile("encode_image", axes=3)
        self._text = self._compile("encode_text", axes=1)
        self._gather = jax.jit(lambda x: x, out_shardings=layout.replicated)

    def images(self, variables: Variables, count: int, pixels_of: Callable[[range], np.ndarray]) -> np.ndarray:
        """Embeddings of ``count`` images: float32 ``[count, D]``.

        Args:
          variables: the weights.
          count: how many.
          pixels_of: from some rows to their pixels, uint8 ``[rows, H, W, 3]``.
        """
        return self._in_turn(variables, self._image, count, pixels_of)

    def texts(self, variables: Variables, texts: Sequence[str]) -> np.ndarray:
        """Embeddings of texts: float32 ``[n, D]``."""
        tokens = self.tokenize(texts)
        return self._in_turn(variables, self._text, len(tokens), lambda rows: tokens[rows.start : rows.stop])

    def tokenize(self, texts: Sequence[str]) -> np.ndarray:
        """Token ids of texts: int32 ``[n, context_length]``."""
        return self._tokenizer(texts, self.model.preset.text.context_length)

    def dataset(
        self,
        variables: Variables,
        source: Source,
        size: int,
        *,
        batch_size: int,
        threads: int = 4,
        workers: int = 0,
        max_pixels: int = MAX_PIXELS,
        check_interrupt: Callable[[], None] = lambda: None,
    ) -> Embedded:
        """The first ``size`` records of a dataset with all their captions; images that cannot be read stand apart.

        Args:
          variables: the weights.
          source: the dataset.
          size: how many of its records.
          batch_size: rows encoded at once over all devices; rounded up to a multiple of their number.
          threads: that decode in each worker.
          workers: processes that decode; 0: threads of this one only; -1: as many as its cores allow.
          max_pixels: larger images cannot be read.
          check_interrupt: called before each batch is encoded, by all processes alike; may raise to break off.

        Raises:
          UserError: no image can be read, or an embedding is not finite.
        """
        preset, devices = self.model.preset, self.layout.mesh.size
        length = preset.text.context_length
        parts: list[tuple[np.ndarray, ...]] = []
        for batch in evaluation_batches(
            source,
            image_size=preset.vision.image_size,
            batch_size=-(-batch_size // devices) * devices,
            size=size,
            threads=threads,
            workers=workers,
            max_pixels=max_pixels,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        ):
            check_interrupt()
            captions = batch.pop("captions")
            most = _power_of_two(max_across_processes(max(map(len, captions))))
            filled = [text for row in captions for text in [*row, *[""] * (most - len(row))]]
            tokens = self._tokenizer(filled, length).reshape(len(captions), most, length)
            rows = self.layout.put_rows(
                {
                    "image": batch["image"],
                    "text": tokens,
                    # A row's number goes with it, since the mesh may order the processes' rows in any way.
                    "index": batch["index"],
                    "captions": np.asarray(list(map(len, captions)), np.int32),
                    "sentence": _digests(tokens),
                    "readable": batch["readable"],
                }
            )
            image = self._image(variables, rows["image"])
            text = self._text(variables, rows["text"]) if most else np.zeros((len(image), 0, image.shape[-1]))
            numbers = self._gather((rows["index"], rows["captions"], rows["sentence"], rows["readable"]))
            parts.append(tuple(np.asarray(part) for part in (image, text, *numbers)))
        return _join(parts, size)

    def _compile(self, method: str, axes: int) -> Callable[[Variables, jax.Array], jax.Array]:
        """Rows, with any axes before the last ``axes``, split over the devices, to embeddings on every device."""

        def embed(variables: Variables, rows: jax.Array) -> jax.Array:
            before = rows.shape[: rows.ndim - axes]
            embeddings = self.model.apply(variables, rows.reshape(-1, *rows.shape[rows.ndim - axes :]), method=method)
            assert isinstance(embeddings, jax.Array)
            return embeddings.reshape(*before, -1)

        return jax.jit(embed, in_shardings=(None, self.layout.rows), out_shardings=self.layout.replicated)

    def _in_turn(
        self,
        variables: Variables,
        embed: Callable[[Variables, jax.Array], jax.Array],
        count: int,
        rows_of: Callable[[range], np.ndarray],
    ) -> np.ndarray:
        chunks = [np.zeros((0, self.model.preset.embedding_size), np.float32)]
        devices = self.layout.mesh.size
        at_once = ROWS_A_DEVICE * devices
        for start in range(0, count, at_once):
            rows = rows_of(range(start, min(start + at_once, count)))
            bucket = devices * _power_of_two(-(-len(rows) // devices))
            filled = np.concatenate([rows, np.repeat(rows[:1], bucket - len(rows), axis=0)])
            chunks.append(np.asarray(embed(variables, self.layout.put_same_rows(filled)))[: len(rows)])
        return np.concatenate(chunks)


def _join(parts: list[tuple[np.ndarray, ...]], size: int) -> Embedded:
    """The rows of all batches in their dataset's order, without those that are no record."""
    widest = max(part[1].shape[1] for part in parts)
    text, sentence = (
        np.concatenate([np.pad(part[place], ((0, 0), (0, widest - part[place].shape[1]), (0, 0))) for part in parts])
        for place in (1, 4)
    )
    image, index, count, readable = (np.concatenate([part[place] for part in parts]) for place in (0, 2, 3, 5))
    order = np.argsort(index, kind="stable")
    order = order[index[order] != PADDING_INDEX]
    order, others = order[readable[order]], order[~readable[order]]
    if not order.size:
        raise UserError(f"none of the {size:,} images can be read.")
    if others.size:
        _LOGGER.warning("%d of %d images cannot be read", others.size, size)

    def texts_of(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        told = np.arange(widest) < count[rows][:, None]
        return text[rows][told], np.ascontiguousarray(sentence[rows][told]).view(np.int64)[:, 0]

    texts, sentences = texts_of(order)
    owners = np.repeat(np.arange(order.size), count[order])
    embedded = Embedded(image[order], texts, owners, index[order], sentences, index[others], *texts_of(others))
    for kind, rows in (("image", embedded.image), ("text", embedded.text), ("text", embedded.unreadable_text)):
        if bad := int((~np.isfinite(rows).all(axis=1)).sum()):
            raise UserError(
                f"{bad} of {len(rows)} {kind} embeddings are not finite, so nothing can be measured: the weights are "
                "of a run that has diverged, or damaged. Evaluate an earlier checkpoint with --step=N."
            )
    return embedded


def _digests(tokens: np.ndarray) -> np.ndarray:
    """Of the last axis: int32 ``[..., 2]``, since devices have no longer numbers."""
    rows = np.ascontiguousarray(tokens).reshape(-1, tokens.shape[-1])
    digests = b"".join(hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows)
    return np.frombuffer(digests, np.int32).reshape(*tokens.shape[:-1], 2)


def _power_of_two(least: int) -> int:
    return least and 1 << (least - 1).bit_length()
