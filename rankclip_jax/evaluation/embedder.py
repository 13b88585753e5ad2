"""Batched encoding of images, texts and whole datasets as unit embeddings."""

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
ROWS_PER_DEVICE = 256  # encoded at once, at most
PADDING_INDEX = -1  # the index of a padding row


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Unit embeddings of a dataset.

    Args:
      image: ``[n, D]``.
      text: ``[m, D]``, at least one for each image.
      image_of_text: int ``[m]``, the row of each text's image; the texts of an image are contiguous.
      index: int ``[n]``, each image's index in its dataset.
      sentence: int ``[m]``, a digest of each text's tokens: texts with the same tokens have the same digest.
      unreadable: int ``[u]``, the indices of records with an unreadable image, which have no row in ``image``.
      unreadable_text: ``[k, D]``, the texts of these records, where they are known.
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
        """The indices of all records: first those with a row in ``image``, then the unreadable ones."""
        return [*self.index.tolist(), *self.unreadable.tolist()]

    @property
    def first_text(self) -> np.ndarray:
        """Each image's first text: ``[n, D]``."""
        return self.text[np.searchsorted(self.image_of_text, np.arange(len(self.image)))]


class Embedder:
    """The encoders of a model on the devices of a layout, compiled on first use.

    Batches are padded to the next power of two, so that each encoder is compiled for only a few sizes.

    Args:
      model: the model.
      layout: the devices over which rows are sharded; all their processes must make the same calls.
    """

    def __init__(self, model: Clip, layout: Layout) -> None:
        self.model, self.layout = model, layout
        self._tokenizer = TOKENIZERS[model.tokenizer]()
        self._image = self._compile("encode_image", axes=3)
        self._text = self._compile("encode_text", axes=1)
        self._gather = jax.jit(lambda x: x, out_shardings=layout.replicated)

    def images(self, variables: Variables, count: int, pixels_of: Callable[[range], np.ndarray]) -> np.ndarray:
        """Returns the embeddings of ``count`` images: float32 ``[count, D]``.

        Args:
          variables: the weights.
          count: number of images.
          pixels_of: returns the pixels of a range of rows, uint8 ``[rows, H, W, 3]``.
        """
        return self._in_turn(variables, self._image, count, pixels_of)

    def texts(self, variables: Variables, texts: Sequence[str]) -> np.ndarray:
        """Returns the embeddings of texts: float32 ``[n, D]``."""
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
        """Embeds the first ``size`` records of a dataset with all their captions; unreadable images are listed apart.

        Args:
          variables: the weights.
          source: the dataset.
          size: number of records.
          batch_size: rows encoded at once over all devices, rounded up to a multiple of the number of devices.
          threads: decoding threads of each worker.
          workers: decoding processes; 0: only threads of this process; -1: as many as its cores allow.
          max_pixels: larger images count as unreadable.
          check_interrupt: called on all processes before each batch is encoded; may raise to abort.

        Raises:
          UserError: no image is readable, or an embedding is not finite.
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
            width = _power_of_two(max_across_processes(max(map(len, captions))))
            padded = [text for row in captions for text in [*row, *[""] * (width - len(row))]]
            tokens = self._tokenizer(padded, length).reshape(len(captions), width, length)
            rows = self.layout.put_rows(
                {
                    "image": batch["image"],
                    "text": tokens,
                    # Each row carries its index, since the mesh may order the processes' rows in any way.
                    "index": batch["index"],
                    "captions": np.asarray(list(map(len, captions)), np.int32),
                    "sentence": _digests(tokens),
                    "readable": batch["readable"],
                }
            )
            image = self._image(variables, rows["image"])
            text = self._text(variables, rows["text"]) if width else np.zeros((len(image), 0, image.shape[-1]))
            row_info = self._gather((rows["index"], rows["captions"], rows["sentence"], rows["readable"]))
            parts.append(tuple(np.asarray(part) for part in (image, text, *row_info)))
        return _join(parts, size)

    def _compile(self, method: str, axes: int) -> Callable[[Variables, jax.Array], jax.Array]:
        """Compiles a method that encodes sharded rows, with any axes before the last ``axes``, on all devices."""

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
        at_once = ROWS_PER_DEVICE * devices
        for start in range(0, count, at_once):
            rows = rows_of(range(start, min(start + at_once, count)))
            bucket = devices * _power_of_two(-(-len(rows) // devices))
            padded = np.concatenate([rows, np.repeat(rows[:1], bucket - len(rows), axis=0)])
            chunks.append(np.asarray(embed(variables, self.layout.put_same_rows(padded)))[: len(rows)])
        return np.concatenate(chunks)


def _join(parts: list[tuple[np.ndarray, ...]], size: int) -> Embedded:
    """Joins the rows of all batches in their dataset's order, without padding rows."""
    widest = max(part[1].shape[1] for part in parts)
    text, sentence = (
        np.concatenate([np.pad(part[field], ((0, 0), (0, widest - part[field].shape[1]), (0, 0))) for part in parts])
        for field in (1, 4)
    )
    image, index, count, readable = (np.concatenate([part[field] for part in parts]) for field in (0, 2, 3, 5))
    order = np.argsort(index, kind="stable")
    order = order[index[order] != PADDING_INDEX]
    order, others = order[readable[order]], order[~readable[order]]
    if not order.size:
        raise UserError(
            f"expected readable images; found none among {size:,} records. Check the dataset with: "
            "rankclip-jax inspect DIR"
        )
    if others.size:
        _LOGGER.warning("%d of %d images cannot be read", others.size, size)

    def texts_of(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        is_caption = np.arange(widest) < count[rows][:, None]
        return text[rows][is_caption], np.ascontiguousarray(sentence[rows][is_caption]).view(np.int64)[:, 0]

    texts, sentences = texts_of(order)
    owners = np.repeat(np.arange(order.size), count[order])
    embedded = Embedded(image[order], texts, owners, index[order], sentences, index[others], *texts_of(others))
    for kind, rows in (("image", embedded.image), ("text", embedded.text), ("text", embedded.unreadable_text)):
        if bad := int((~np.isfinite(rows).all(axis=1)).sum()):
            raise UserError(
                f"{bad} of {len(rows)} {kind} embeddings are not finite: the run has diverged, or the weights are "
                "damaged. Evaluate an earlier checkpoint with --step=N."
            )
    return embedded


def _digests(tokens: np.ndarray) -> np.ndarray:
    """Returns 64-bit digests of the last axis as int32 ``[..., 2]``, since JAX has no int64 by default."""
    rows = np.ascontiguousarray(tokens).reshape(-1, tokens.shape[-1])
    digests = b"".join(hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows)
    return np.frombuffer(digests, np.int32).reshape(*tokens.shape[:-1], 2)


def _power_of_two(least: int) -> int:
    return least and 1 << (least - 1).bit_length()
