"""The loader: a Grain pipeline from records to batches.

Batch ``k`` of a run is a pure function of (dataset, seed, k), for any number of hosts, workers and threads. Each host
decodes its own rows of every global batch, and a start at step ``k`` skips the earlier batches without reading them.
"""

import dataclasses
import logging
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import grain
import numpy as np
from absl import flags

from . import augmentation, images
from .augmentation import Augmentation
from .errors import UnreadableError, UserError
from .files import printable
from .source import Mixture, Source, captions
from .tokenizers import CLIP, Tokenizer

_LOGGER = logging.getLogger(__name__)
_ATTEMPTS = 64  # records to try in place of an unreadable one
_PROBES = 16  # records that `check_readable` tries
_MAX_NAME_LENGTH = 4096  # characters of a record's name, the maximum of a path


@dataclasses.dataclass(frozen=True)
class Preparation(grain.transforms.RandomMap):
    """Maps a record's index to a row of a batch; a record drawn at random replaces an unreadable one."""

    source: Source
    image_size: int
    context_length: int
    tokenizer: Tokenizer
    augmentation: Augmentation
    second_view: bool
    first_sample: int = 0
    max_pixels: int = images.MAX_PIXELS

    def random_map(self, index: int, rng: np.random.Generator) -> dict:
        """Returns a row: pixels, token ids, optional augmented views, its origin, and the ``unreadable`` records."""
        unreadable: list[str] = []
        for _ in range(_ATTEMPTS):
            try:
                return self._row(index, rng) | self._record_info(index, unreadable)
            except UnreadableError as error:
                unreadable.append(str(error))
                index = int(rng.integers(len(self.source)))
        blank = images.in_memory(np.zeros((self.image_size, self.image_size, 3), np.uint8))
        return self._views(blank, "", rng) | {"caption": np.int32(0)} | self._record_info(index, unreadable)

    def _record_info(self, index: int, unreadable: list[str]) -> dict:
        return {"sample": np.int32(self.first_sample + index), "unreadable": unreadable}

    def _row(self, index: int, rng: np.random.Generator) -> dict:
        record = self.source[index]
        image, texts = record["image"], captions(record)
        try:
            in_memory = isinstance(image, np.ndarray)
            picture = images.in_memory(image) if in_memory else images.open_picture(image, self.max_pixels)
            caption = int(rng.integers(len(texts))) if len(texts) > 1 else 0
            return self._views(picture, texts[caption], rng) | {"caption": np.int32(caption)}
        except UnreadableError as error:
            raise UnreadableError(f"{_describe(record, index)}: {error}") from error

    def _views(self, picture: images.Picture, text: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Returns the first view and, if enabled, the second."""
        views = {"image": self.augmentation(picture, self.image_size, rng), "text": self._tokenize(text)}
        if self.second_view:
            views["image_augmented"] = augmentation.SECOND_VIEW(picture, self.image_size, rng)
            views["text_augmented"] = self._tokenize(augmentation.augment_text(text, rng))
        return views

    def _tokenize(self, text: str) -> np.ndarray:
        return self.tokenizer([text], self.context_length)[0]


def training_batches(
    source: Source | Mixture,
    *,
    image_size: int,
    context_length: int,
    tokenizer: Tokenizer = CLIP,
    augmentation: Augmentation,
    global_batch_size: int,
    seed: int,
    start_step: int,
    threads: int,
    workers: int,
    second_view: bool = False,
    max_pixels: int = images.MAX_PIXELS,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[dict]:
    """Yields this process's rows of global batches ``start_step``, ``start_step + 1``, ... without end.

    Each epoch has a new random order, and the last pairs of an epoch share a batch with the first of the next.

    Args:
      source: the dataset, or a mixture of several.
      image_size: side of the images in pixels.
      context_length: number of token ids per text.
      tokenizer: converts texts to token ids.
      augmentation: draws training views.
      global_batch_size: pairs per batch over all processes.
      seed: the seed of order and views.
      start_step: the first batch.
      threads: decoding threads per worker.
      workers: decoding processes; 0: threads of this process only; -1: chosen by the number of cores.
      second_view: also yield an augmented view of each image and text.
      max_pixels: larger images are unreadable.
      process_index: the index of this process.
      process_count: the number of processes that share the rows.

    Yields:
      ``{"image": uint8 [b, H, W, 3], "text": int32 [b, L], "sample": int32 [b], "caption": int32 [b],
      "unreadable": list of str}`` with
      ``b = global_batch_size / process_count``; with ``second_view`` also ``image_augmented`` and ``text_augmented``.
      ``sample`` is the index of each pair's record in the dataset (of a mixture: in its concatenation), and
      ``caption`` the number of the caption that was drawn;
      ``unreadable`` lists the replaced records and the reasons.
    """
    parts = source.parts if isinstance(source, Mixture) else (source,)
    starts = [sum(map(len, parts[:number])) for number in range(len(parts))]
    shuffled = [
        grain.MapDataset.range(len(part))
        .seed(seed + number)
        .shuffle()
        .repeat()
        .random_map(
            Preparation(part, image_size, context_length, tokenizer, augmentation, second_view, first, max_pixels)
        )
        for number, (part, first) in enumerate(zip(parts, starts, strict=True))
    ]
    mixed = grain.MapDataset.mix(shuffled, source.weights) if isinstance(source, Mixture) else shuffled[0]
    rows = global_batch_size // process_count
    dataset = mixed.batch(rows, batch_fn=_stack)[process_index::process_count][start_step:]
    batches = _in_parallel(dataset, threads, workers)
    try:
        yield from batches
    finally:
        batches.close()


def _in_parallel(dataset: grain.MapDataset, threads: int, workers: int) -> Any:
    """Returns an iterator over the batches, prefetched by threads and optionally by processes."""
    batches = dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4))
    if workers := worker_count(workers):
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads its flags when it starts workers
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        batches = batches.mp_prefetch(options, worker_init_fn=_ignore_interrupts)
    return iter(batches)


def worker_count(asked: int) -> int:
    """Returns the number of decoding processes: ``asked``, or for -1 this process's cores minus two, at most 32."""
    return asked if asked >= 0 else min(max(len(os.sched_getaffinity(0)) - 2, 0), 32)


@dataclasses.dataclass(frozen=True)
class EvaluationRow(grain.transforms.Map):
    """Maps a record's index to a row of an evaluation batch; unreadable images and padding rows are blank."""

    source: Source
    image_size: int
    size: int
    max_pixels: int = images.MAX_PIXELS

    def map(self, index: int) -> dict:
        """Returns ``{"image": uint8 [H, W, 3], "captions": list of str, "index": int32, "readable", "unreadable"}``.

        ``readable`` is a bool; ``unreadable`` is a message about an unreadable image, or None.
        """
        unreadable, texts = None, []
        if index < self.size:
            name = f"record {index}"
            try:
                record = self.source[index]
                name = _describe(record, index)
                texts = captions(record)
                pixels = evaluation_pixels(record["image"], self.image_size, self.max_pixels)
                return self._row(index, pixels, texts, None)
            except UnreadableError as error:
                unreadable = f"{name}: {error}"
        pixels = np.zeros((self.image_size, self.image_size, 3), np.uint8)
        return self._row(index, pixels, texts, unreadable) | {"readable": np.bool_(False)}

    def _row(self, index: int, pixels: np.ndarray, texts: list[str], unreadable: str | None) -> dict:
        number = np.int32(index if index < self.size else -1)
        return {
            "image": pixels,
            "captions": texts,
            "index": number,
            "readable": np.bool_(True),
            "unreadable": unreadable,
        }


def evaluation_batches(
    source: Source,
    *,
    image_size: int,
    batch_size: int,
    size: int,
    threads: int = 4,
    workers: int = 0,
    max_pixels: int = images.MAX_PIXELS,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict]:
    """Yields this process's rows of the first ``size`` records in order; pads the last batch with blank rows.

    Args:
      source: the dataset.
      image_size: side of the images in pixels.
      batch_size: rows per batch over all processes.
      size: number of records.
      threads: decoding threads per worker.
      workers: decoding processes; 0: threads of this process only; -1: chosen by the number of cores.
      max_pixels: larger images are unreadable.
      process_index: the index of this process.
      process_count: the number of processes that share the rows.

    Yields:
      ``{"image": uint8 [b, H, W, 3], "captions": b lists of str, "index": int32 [b], "readable": bool [b]}`` with
      ``b = batch_size / process_count``; the index is -1 for blank rows. Unreadable images are logged.
    """
    rows = batch_size // process_count
    padded = -(-size // batch_size) * batch_size
    dataset = grain.MapDataset.range(padded).map(EvaluationRow(source, image_size, size, max_pixels))
    batches = _in_parallel(dataset.batch(rows, batch_fn=_stack)[process_index::process_count], threads, workers)
    try:
        for batch in batches:
            for line in batch.pop("unreadable"):
                _LOGGER.warning("unreadable: %s", line)
            yield batch
    finally:
        batches.close()


def evaluation_pixels(
    image: Path | bytes | np.ndarray, image_size: int, max_pixels: int = images.MAX_PIXELS
) -> np.ndarray:
    """Returns the evaluation view of an image in any form: uint8 ``[image_size, image_size, 3]``.

    Raises:
      UnreadableError: the image cannot be decoded, is larger than ``max_pixels``, or has no pixels.
    """
    if isinstance(image, np.ndarray):
        if image.shape == (image_size, image_size, 3):
            return image
        return images.evaluation_view(images.of_pixels(image), image_size)
    return images.evaluation_view(images.open_image(image, max_pixels), image_size)


def _describe(record: dict, index: int) -> str:
    """Returns a record's name for logs: its key, its image's path, or its index."""
    image = record["image"]
    return printable(record.get("key") or (image if isinstance(image, Path) else f"record {index}"), _MAX_NAME_LENGTH)


def name_of_record(source: Source | Mixture, number: int) -> str:
    """Returns the name for logs of the record with index ``number``, the ``sample`` of a batch."""
    for part in source.parts if isinstance(source, Mixture) else (source,):
        if number < len(part):
            try:
                return _describe(part[number], number)
            except UnreadableError:
                return f"record {number}"
        number -= len(part)
    raise IndexError(number)


def _ignore_interrupts(worker: int, workers: int) -> None:
    """Ignores Ctrl-C in a worker, since a terminal sends it to every process; the parent closes its workers."""
    del worker, workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _stack(rows: list[dict]) -> dict:
    """Stacks arrays, keeps caption lists separate, and concatenates the messages about unreadable records."""
    messages = [row.pop("unreadable") for row in rows]
    lines = [line for message in messages for line in ([message] if isinstance(message, str) else message or [])]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    stacked = {name: column if name == "captions" else np.stack(column) for name, column in columns.items()}
    return stacked | {"unreadable": lines}


def check_readable(source: Source, flag: str, max_pixels: int = images.MAX_PIXELS) -> None:
    """Reads a few records across the dataset, to fail early if the images are missing.

    Raises:
      UserError: none of these records can be read.
    """
    reasons = []
    for index in np.unique(np.linspace(0, len(source) - 1, _PROBES).astype(int)):
        try:
            image = source[int(index)]["image"]
            if not isinstance(image, np.ndarray):
                images.decode(image, max_pixels)
            return
        except UnreadableError as error:
            image = getattr(source, "paths", {index: f"record {index}"})[index]
            reasons.append(f"{image}: {error}" if str(image) not in str(error) else str(error))
    raise UserError(
        f"{flag}: none of {len(reasons)} probed images can be read: {'; '.join(reasons[:3])}. Check the image paths: "
        "relative paths start from the folder of the file that lists them."
    )
