"""From records to batches: the Grain pipeline.

Batch ``k`` of a run is a pure function of (dataset, seed, k), whatever the number of hosts, workers and threads:
each host decodes its own rows of every global batch, and starting at step ``k`` skips without reading.
"""

import dataclasses
import logging
import os
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import grain
import numpy as np
from absl import flags
from PIL import Image

from input_pipeline import augmentation, images, tokenizer
from input_pipeline.augmentation import Augmentation
from input_pipeline.errors import UnreadableError
from input_pipeline.source import Mixture, Source, captions

_LOGGER = logging.getLogger(__name__)
_ATTEMPTS = 64  # records tried in the place of an unreadable one, before giving up


@dataclasses.dataclass(frozen=True)
class Preparation(grain.transforms.RandomMap):
    """A record's number to one row of a batch; an unreadable record is replaced by one that its random key picks."""

    source: Source
    image_size: int
    context_length: int
    augmentation: Augmentation
    second_view: bool

    def random_map(self, index: int, rng: np.random.Generator) -> dict:
        unreadable: list[str] = []
        for _ in range(_ATTEMPTS):
            try:
                return self._row(index, rng) | {"unreadable": "\n".join(unreadable)}
            except UnreadableError as error:
                unreadable.append(str(error).replace("\n", " "))
                index = int(rng.integers(len(self.source)))
        pixels = np.zeros((self.image_size, self.image_size, 3), np.uint8)
        return self._views(pixels, "", rng) | {"unreadable": "\n".join(unreadable)}

    def _row(self, index: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        record = self.source[index]
        image, texts = record["image"], captions(record)
        try:
            picture = image if isinstance(image, np.ndarray) else images.open_picture(image)
            text = texts[rng.integers(len(texts))] if len(texts) > 1 else texts[0]
            return self._views(picture, text, rng)
        except UnreadableError as error:
            raise UnreadableError(f"{_describe(image, index)}: {error}") from error

    def _views(
        self, picture: images.Picture | np.ndarray, text: str, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The first view, and where asked for the second; pixels from memory are taken as they are."""
        if isinstance(picture, np.ndarray):
            first, picture = picture, images.in_memory(picture)
        else:
            first = self.augmentation(picture, self.image_size, rng)
        views = {"image": first, "text": self._tokenize(text)}
        if self.second_view:
            views["image_augmented"] = augmentation.SECOND_VIEW(picture, self.image_size, rng)
            views["text_augmented"] = self._tokenize(augmentation.augment_text(text, rng))
        return views

    def _tokenize(self, text: str) -> np.ndarray:
        return tokenizer.tokenize([text], self.context_length)[0]


def training_batches(
    source: Source | Mixture,
    *,
    image_size: int,
    context_length: int,
    augmentation: Augmentation,
    global_batch_size: int,
    seed: int,
    start_step: int,
    threads: int,
    workers: int,
    second_view: bool = False,
    process_index: int = 0,
    process_count: int = 1,
) -> Generator[dict]:
    """This process's rows of global batch ``start_step``, ``start_step + 1``, ... without end.

    The order is shuffled anew every epoch, and an epoch's last pairs share a batch with the next one's first.

    Args:
      workers: processes that decode; 0: threads of this process only; -1: as many as its cores allow.

    Yields:
      ``{"image": uint8 [b, H, W, 3], "text": int32 [b, L], "unreadable": list of str}`` with
      ``b = global_batch_size / process_count``, and the same with ``_augmented`` where ``second_view`` is asked for;
      ``unreadable`` names the records that were replaced and why.
    """
    parts = source.parts if isinstance(source, Mixture) else (source,)
    shuffled = [
        grain.MapDataset.range(len(part))
        .seed(seed + number)
        .shuffle()
        .repeat()
        .random_map(Preparation(part, image_size, context_length, augmentation, second_view))
        for number, part in enumerate(parts)
    ]
    mixed = grain.MapDataset.mix(shuffled, source.weights) if isinstance(source, Mixture) else shuffled[0]
    rows = global_batch_size // process_count
    dataset = mixed.batch(rows, batch_fn=_stack)[process_index::process_count][start_step:]
    batches = dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4))
    if workers := worker_count(workers):
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads flags of its own when it starts workers
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        batches = batches.mp_prefetch(options, worker_init_fn=_leave_signals_to_the_parent)
    iterator = iter(batches)
    try:
        yield from iterator
    finally:
        iterator.close()


def worker_count(asked: int) -> int:
    """Processes to decode with: what is asked for, or for -1 all but two of this process's cores, at most 32."""
    return asked if asked >= 0 else min(max(len(os.sched_getaffinity(0)) - 2, 0), 32)


def evaluation_batches(
    source: Source,
    *,
    image_size: int,
    context_length: int,
    batch_size: int,
    size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[dict]:
    """This process's rows of the first ``size`` records in order; the last batch is filled up with blank rows.

    Yields:
      ``{"image": uint8 [b, H, W, 3], "text": int32 [b, L], "valid": bool [b]}`` with
      ``b = batch_size / process_count``; ``valid`` is false for blank rows and unreadable images, which are logged.
    """
    rows = batch_size // process_count
    for start in range(process_index * rows, -(-size // batch_size) * batch_size, batch_size):
        pixels = np.zeros((rows, image_size, image_size, 3), np.uint8)
        texts, valid = [""] * rows, np.zeros(rows, bool)
        for row, index in enumerate(range(start, min(start + rows, size))):
            try:
                record = source[index]
                pixels[row] = evaluation_pixels(record["image"], image_size)
                texts[row] = captions(record)[0]
                valid[row] = True
            except UnreadableError as error:
                _LOGGER.warning("unreadable record %d left out: %s", index, error)
        yield {"image": pixels, "text": tokenizer.tokenize(texts, context_length), "valid": valid}


def evaluation_pixels(image: Path | bytes | np.ndarray, image_size: int) -> np.ndarray:
    """The evaluation view of an image in any form: uint8 ``[image_size, image_size, 3]``."""
    if isinstance(image, np.ndarray):
        if image.shape == (image_size, image_size, 3):
            return image
        return images.evaluation_view(Image.fromarray(image), image_size)
    return images.evaluation_view(images.open_image(image), image_size)


def _describe(image: Path | bytes | np.ndarray, index: int) -> str:
    """How a log names an image."""
    return str(image) if isinstance(image, Path) else f"record {index}"


def _leave_signals_to_the_parent(worker: int, workers: int) -> None:
    """Ctrl-C in a terminal reaches every process; the parent alone decides, and closes its workers in good order."""
    del worker, workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _stack(rows: list[dict]) -> dict:
    unreadable = [line for row in rows for line in row.pop("unreadable").split("\n") if line]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]} | {"unreadable": unreadable}
