"""Batches on the devices from a data source, and the count of unreadable records."""

from collections.abc import Generator

import jax
from ml_collections import ConfigDict

from rankclip_jax.distributed.processes import sum_across_processes
from rankclip_jax.input_pipeline.augmentation import Augmentation
from rankclip_jax.input_pipeline.loader import name_of_record, training_batches
from rankclip_jax.input_pipeline.source import Source
from rankclip_jax.input_pipeline.tokenizers import TOKENIZERS
from rankclip_jax.input_pipeline.unreadable import UnreadableTally
from rankclip_jax.objectives import teacher
from rankclip_jax.training.experiment import Experiment
from rankclip_jax.training.forward import Batch


def device_batches(experiment: Experiment, source: Source, start_step: int, tally: UnreadableTally) -> Generator[Batch]:
    """Yields the batches of steps ``start_step``, ``start_step + 1``, ..., prefetching one batch to the devices.

    Args:
      experiment: the experiment.
      source: the training data.
      start_step: updates done.
      tally: counts unreadable records, and stops the run if there are too many.
    """
    config = experiment.config
    batches = _batches(experiment, source, start_step, config.data.threads, config.data.workers)
    prefetched: list[tuple[list[str], Batch]] = []
    try:
        for batch in batches:
            lines = batch.pop("unreadable")
            origin = {name: batch.pop(name) for name in ("sample", "caption")}
            if experiment.objective.is_stateful:
                batch["sample"] = origin["sample"]
            placed = experiment.layout.put_rows(batch)
            for number, each in enumerate(experiment.teachers):
                placed |= zip(teacher.views(number), each.embed(origin, placed), strict=True)
            prefetched.append((lines, placed))
            if len(prefetched) > 1:
                lines, next_batch = prefetched.pop(0)
                tally.add(lines, len(batch["text"]))
                yield next_batch
    finally:
        batches.close()


def make_tally(config: ConfigDict, source: Source) -> UnreadableTally:
    """Returns a tally of a source's unreadable records over all processes."""
    fraction, every = config.data.max_unreadable_fraction, config.logging.every_steps
    return UnreadableTally(fraction, len(source), every_batches=every, sum_across_processes=sum_across_processes)


def records_of_step(experiment: Experiment, source: Source, step: int) -> list[str]:
    """Returns the names of the records in this process's rows of a step's batch, by loading the batch again."""
    batches = _batches(experiment, source, step - 1, threads=1, workers=0)
    try:
        return [name_of_record(source, int(number)) for number in next(batches)["sample"]]
    finally:
        batches.close()


def _batches(experiment: Experiment, source: Source, start_step: int, threads: int, workers: int) -> Generator[dict]:
    config, preset = experiment.config, experiment.model.preset
    return training_batches(
        source,
        image_size=preset.vision.image_size,
        context_length=preset.text.context_length,
        tokenizer=TOKENIZERS[experiment.model.tokenizer](),
        augmentation=Augmentation.from_config(config.data),
        global_batch_size=config.train.global_batch_size,
        seed=config.seed,
        start_step=start_step,
        threads=threads,
        workers=workers,
        second_view=experiment.objective.needs_second_views,
        max_pixels=config.data.max_pixels,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
