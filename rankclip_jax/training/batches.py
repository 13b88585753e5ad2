"""From a source to batches on the devices, and what becomes of records that cannot be read."""

from collections.abc import Generator

import jax

from input_pipeline.augmentation import Augmentation
from input_pipeline.loader import training_batches
from input_pipeline.source import Source
from input_pipeline.unreadable import UnreadableTally
from rankclip_jax.run.assembly import Assembly
from rankclip_jax.run.forward import Batch


def device_batches(
    assembly: Assembly, source: Source, start_step: int, unreadable: UnreadableTally
) -> Generator[Batch]:
    """The batches of steps ``start_step``, ``start_step + 1``, ..., each sent while the step before it is computed.

    Args:
      assembly: the run's parts.
      source: the training data.
      start_step: updates done.
      unreadable: counts records, and stops the run where too many cannot be read.
    """
    config, preset = assembly.config, assembly.model.preset
    batches = training_batches(
        source,
        image_size=preset.vision.image_size,
        context_length=preset.text.context_length,
        augmentation=Augmentation.from_settings(config.data),
        global_batch_size=config.train.global_batch_size,
        seed=config.seed,
        start_step=start_step,
        threads=config.data.threads,
        workers=config.data.workers,
        second_view=config.objective.second_view,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    ahead: list[tuple[list[str], Batch]] = []
    try:
        for batch in batches:
            lines = batch.pop("unreadable")
            if not assembly.remembers:
                del batch["sample"]
            ahead.append((lines, assembly.layout.put_rows(batch)))
            if len(ahead) > 1:
                lines, sent = ahead.pop(0)
                unreadable.add(lines, len(batch["text"]))
                yield sent
    finally:
        batches.close()
