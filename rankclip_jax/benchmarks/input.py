"""Benchmark of the input pipeline: by stage, in total, and compared with PyTorch with the release's transforms.

Speed is pairs per second of CPU time, summed over threads: the throughput per core.
"""

import dataclasses
import importlib.util
import io
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from rankclip_jax import input_pipeline
from rankclip_jax.benchmarks.peer import install_hint
from rankclip_jax.benchmarks.timing import Spread, Timed, Timings, columns, format_row, print_conclusion, take_turns
from rankclip_jax.distributed.mesh import make_local_mesh
from rankclip_jax.distributed.sharding import Layout
from rankclip_jax.input_pipeline import images, tokenizer
from rankclip_jax.input_pipeline.augmentation import Augmentation
from rankclip_jax.input_pipeline.errors import UnreadableError, UserError
from rankclip_jax.input_pipeline.image_formats import FORMATS
from rankclip_jax.input_pipeline.loader import check_readable, training_batches
from rankclip_jax.input_pipeline.source import Source, captions
from rankclip_jax.interop.files import import_torch
from rankclip_jax.models.clip import PIXEL_MEAN, PIXEL_STD
from rankclip_jax.models.presets import Preset, preset_of
from rankclip_jax.settings import validation

_ROUNDS = 3  # turns of each loader


def run(config: ConfigDict, original: Path | None, pairs: int, rate: float) -> list[dict]:
    """Measures the input of a recipe, prints a line for each stage and loader, and returns the rows.

    Args:
      config: the settings.
      original: a CSV list that PyTorch reads; None: the recipe's data.
      pairs: number of pairs to read for each measurement.
      rate: the required pairs per second, for the estimate of cores.

    Raises:
      UserError: the settings or the data are invalid, or the pairs are fewer than a batch.
    """
    validation.check_values(config)
    preset, batch = preset_of(config.model), config.train.global_batch_size
    size = preset.vision.image_size
    source = input_pipeline.open_source(config.data, "train", image_size=size, seed=config.seed)
    check_readable(source, "config.data.train")
    theirs = source
    if original:
        with config.copy_and_resolve_references().unlocked() as given:
            given.data.update({"source": "csv", "train": str(original)})
        theirs = input_pipeline.open_source(given.data, "train", image_size=size, seed=config.seed)
        check_readable(theirs, "--original")
    augmentation = Augmentation.from_config(config.data)
    if pairs < batch:
        raise UserError(f"--pairs: expected at least one batch, {batch} pairs; found {pairs}. Use --pairs={batch}")
    try:
        rows = stages(source, preset, augmentation, batch, pairs)
        timings = beside_pytorch(config, preset, augmentation, source, theirs, pairs)
        rows += rows_of(timings)
    except UnreadableError as error:
        raise UserError(
            f"config.data.train: {error}. The benchmark needs readable images; fix or remove this one."
        ) from error
    for row in rows:
        name = row.get("stage") or f"{row['loader']} as a whole"
        line = f"{name:<24}{row['pairs_per_second_per_core']:12,.0f} pairs/s per core"
        if "loader" in row:
            least, most = row["pairs_per_second_per_core_range"]
            line += f" ({least:,.0f} to {most:,.0f})"
            line += f"; ours is {format_row(row, 'ratio', '.2f')} x this" if row["loader"] == "pytorch" else ""
        print(line)
        if row.get("loader") == "rankclip_jax":
            cores = math.ceil(rate / row["pairs_per_second_per_core"])
            devices = jax.local_device_count()
            print(f"{rate:,.0f} pairs/s need {cores} such cores, {cores / devices:.1f} per attached device.")
    print_conclusion(timings)
    return rows


def rows_of(timings: Timings) -> list[dict]:
    """Returns a row for each loader; its ratio is its time relative to rankclip_jax."""
    return [
        {"loader": name}
        | columns("pairs_per_second_per_core", Spread.of(1 / seconds_per_pair for seconds_per_pair in seconds))
        | columns("ratio", timings.ratio(name, to="rankclip_jax"))
        | timings.load_columns()
        for name, seconds in timings.seconds.items()
    ]


def stages(source: Source, preset: Preset, augmentation: Augmentation, batch_size: int, pairs: int) -> list[dict]:
    """Measures each stage for ``pairs`` pairs in one thread, and returns a row for each.

    Pixels that a source holds in memory are cropped but not decoded.
    """
    rng = np.random.default_rng(0)
    size = preset.vision.image_size
    layout = Layout(make_local_mesh())
    order = np.random.default_rng(0).integers(len(source), size=pairs)
    rows = []

    def timed(stage: str, work: Callable[[], list]) -> list:
        start = time.process_time()
        result = work()
        rows.append({"stage": stage, "pairs_per_second_per_core": pairs / max(time.process_time() - start, 1e-9)})
        return result

    records = timed("read", lambda: [_in_memory(source[int(index)]) for index in order])
    pixels = [record["image"] for record in records]
    crop = Augmentation(augmentation.crop_scale, crop=augmentation.crop)
    in_memory = isinstance(pixels[0], np.ndarray)
    pictures = [images.in_memory(image) if in_memory else images.open_picture(image) for image in pixels]
    pixels = timed("crop" if in_memory else "decode and crop", lambda: [crop(it, size, rng) for it in pictures])
    if augmentation != crop:
        rest = dataclasses.replace(augmentation, crop="center")
        views = [images.in_memory(view) for view in pixels]
        pixels = timed("augment", lambda: [rest(view, size, rng) for view in views])
    texts = [captions(record)[0] for record in records]
    length = preset.text.context_length
    tokens = timed("tokenise", lambda: [tokenizer.tokenize([text], length)[0] for text in texts])

    def batches() -> list[dict[str, np.ndarray]]:
        starts = range(0, pairs - batch_size + 1, batch_size)
        return [
            {
                "image": np.stack(pixels[start : start + batch_size]),
                "text": np.stack(tokens[start : start + batch_size]),
            }
            for start in starts
        ]

    host_batches = timed("batch", batches)
    timed("transfer", lambda: [jax.block_until_ready(layout.put_rows(batch)) for batch in host_batches])
    return rows


def beside_pytorch(
    config: ConfigDict, preset: Preset, augmentation: Augmentation, source: Source, original: Source, pairs: int
) -> Timings:
    """Measures CPU time per pair in our loader and, if PyTorch and torchvision are installed, in PyTorch's.

    Args:
      config: the settings.
      preset: the model's sizes.
      augmentation: the augmentation of training views.
      source: the data of our loader.
      original: the data of PyTorch's loader.
      pairs: number of pairs to read in each round.
    """
    runs: dict[str, Callable[[], Iterator[int]]] = {
        "rankclip_jax": lambda: _our_batches(config, preset, augmentation, source)
    }
    if missing := [name for name in ("torch", "torchvision") if not importlib.util.find_spec(name)]:
        print(f"note: no comparison with PyTorch's DataLoader: {install_hint(missing)}")
    else:
        runs["pytorch"] = lambda: _torch_batches(config, preset, original)

    def version(batches_of: Callable[[], Iterator[int]]) -> Timed:
        def take(count: int) -> float:
            batches = batches_of()
            next(batches)  # one-time costs: buffers, the tokenizer's tables
            start, done = time.process_time(), 0
            while done < count * pairs:
                done += next(batches)
            taken = time.process_time() - start
            batches.close()  # type: ignore[attr-defined]
            return taken / done

        return take

    return take_turns({name: version(run) for name, run in runs.items()}, turns=_ROUNDS)


def _our_batches(config: ConfigDict, preset: Preset, augmentation: Augmentation, source: Source) -> Iterator[int]:
    batches = training_batches(
        source,
        image_size=preset.vision.image_size,
        context_length=preset.text.context_length,
        augmentation=augmentation,
        global_batch_size=config.train.global_batch_size,
        seed=config.seed,
        start_step=0,
        threads=1,
        workers=0,
        second_view=config.objective.second_view,
        max_pixels=config.data.max_pixels,
    )
    try:
        for batch in batches:
            yield len(batch["text"])
    finally:
        batches.close()


def _torch_batches(config: ConfigDict, preset: Preset, source: Source) -> Iterator[int]:
    """Yields batches with CLIP's transform, which the release uses; it tokenises before training, so not here."""
    torch = import_torch("the benchmark")
    from PIL import Image
    from torchvision import transforms

    torch.set_num_threads(1)
    size = preset.vision.image_size
    transform = transforms.Compose(
        [
            transforms.Resize(size, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
            lambda image: image.convert("RGB"),
            transforms.ToTensor(),
            transforms.Normalize(PIXEL_MEAN, PIXEL_STD),
        ]
    )

    class Pictures(torch.utils.data.Dataset):  # type: ignore[name-defined]
        def __len__(self) -> int:
            return len(source)

        def __getitem__(self, index: int) -> object:
            image = _in_memory(source[index])["image"]
            in_memory = isinstance(image, np.ndarray)
            opened = Image.fromarray(image) if in_memory else Image.open(io.BytesIO(image), formats=FORMATS)
            return transform(opened)

    while True:
        loader = torch.utils.data.DataLoader(Pictures(), config.train.global_batch_size, shuffle=True, drop_last=False)
        for batch in loader:
            yield len(batch)


def _in_memory(record: dict) -> dict:
    image = record["image"]
    return record if isinstance(image, np.ndarray) else record | {"image": images.read(image)}
