"""From records to batches: the Grain pipeline.

Batch ``k`` of a run is a pure function of (dataset, seed, k), whatever the number of hosts, workers and threads:
each host decodes its own rows of every global batch, and starting at step ``k`` skips without reading.
"""

import dataclasses
import logging
import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Protocol

import grain
import numpy as np
from absl import flags
from PIL import Image

from input_pipeline import augmentation, images, tokenizer

_LOGGER = logging.getLogger(__name__)
_ATTEMPTS = 64  # records tried in the place of an unreadable one, before giving up


class Source(Protocol):
    """A dataset: item ``i`` is ``{"image": Path, bytes or uint8 pixels, "text": str}``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict: ...


@dataclasses.dataclass(frozen=True)
class Preparation(grain.transforms.RandomMap):
    """One record to one row of a batch; an unreadable image is replaced by a record that its random key picks."""

    source: Source
    image_size: int
    context_length: int
    crop_scale: tuple[float, float]
    second_view: bool

    def random_map(self, record: dict, rng: np.random.Generator) -> dict:
        unreadable = []
        for _ in range(_ATTEMPTS):
            try:
                image = self._decode(record["image"])
            except images.UnreadableImageError as error:
                unreadable.append(f"{describe(record['image'])}: {error}")
                record = self.source[int(rng.integers(len(self.source)))]
            else:
                return self._views(image, record["text"], rng) | {"unreadable": "\n".join(unreadable)}
        blank = Image.new("RGB", (self.image_size, self.image_size))
        return self._views(blank, "", rng) | {"unreadable": "\n".join(unreadable)}

    def _decode(self, image: Path | bytes | np.ndarray) -> Image.Image | np.ndarray:
        return image if isinstance(image, np.ndarray) else images.decode(image)

    def _views(self, image: Image.Image | np.ndarray, text: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The first view, and where asked for the second; pixels from memory are taken as they are."""
        if isinstance(image, np.ndarray):
            first, image = image, Image.fromarray(image)
        else:
            first = images.training_view(image, self.image_size, self.crop_scale, rng)
        views = {"image": first, "text": self._tokenize(text)}
        if self.second_view:
            views["image_augmented"] = augmentation.augment_image(image, self.image_size, rng)
            views["text_augmented"] = self._tokenize(augmentation.augment_text(text, rng))
        return views

    def _tokenize(self, text: str) -> np.ndarray:
        return tokenizer.tokenize([text], self.context_length)[0]


def training_batches(
    source: Source,
    *,
    image_size: int,
    context_length: int,
    crop_scale: tuple[float, float],
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

    Yields:
      ``{"image": uint8 [b, H, W, 3], "text": int32 [b, L], "unreadable": list of str}`` with
      ``b = global_batch_size / process_count``, and the same with ``_augmented`` where ``second_view`` is asked for;
      ``unreadable`` names the images that were replaced and why.
    """
    rows = global_batch_size // process_count
    preparation = Preparation(source, image_size, context_length, crop_scale, second_view)
    dataset = (
        grain.MapDataset.source(source)
        .seed(seed)
        .shuffle()
        .repeat()
        .random_map(preparation)
        .batch(rows, batch_fn=_stack)[process_index::process_count][start_step:]
    )
    batches = dataset.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4))
    if workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads flags of its own when it starts workers
        options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        batches = batches.mp_prefetch(options, worker_init_fn=_leave_signals_to_the_parent)
    iterator = iter(batches)
    try:
        yield from iterator
    finally:
        iterator.close()


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
            record = source[index]
            try:
                pixels[row] = evaluation_pixels(record["image"], image_size)
                texts[row], valid[row] = record["text"], True
            except images.UnreadableImageError as error:
                _LOGGER.warning("unreadable image left out: %s: %s", describe(record["image"]), error)
        yield {"image": pixels, "text": tokenizer.tokenize(texts, context_length), "valid": valid}


def evaluation_pixels(image: Path | bytes | np.ndarray, image_size: int) -> np.ndarray:
    """The evaluation view of an image in any form: uint8 ``[image_size, image_size, 3]``."""
    if isinstance(image, np.ndarray):
        if image.shape == (image_size, image_size, 3):
            return image
        return images.evaluation_view(Image.fromarray(image), image_size)
    return images.evaluation_view(images.open_image(image), image_size)


def describe(image: Path | bytes | np.ndarray) -> str:
    """How a log names an image."""
    return str(image) if isinstance(image, Path) else f"image of {len(image)} bytes"


def _leave_signals_to_the_parent(worker: int, workers: int) -> None:
    """Ctrl-C in a terminal reaches every process; the parent alone decides, and closes its workers in good order."""
    del worker, workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _stack(rows: list[dict]) -> dict:
    unreadable = [line for row in rows for line in row.pop("unreadable").split("\n") if line]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]} | {"unreadable": unreadable}
