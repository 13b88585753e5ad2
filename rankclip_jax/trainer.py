"""The story of a run: check, restore or initialise, step, and show what was learned."""

import math
import sys
from collections.abc import Generator
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

import input_pipeline
from input_pipeline.augmentation import Augmentation
from input_pipeline.loader import training_batches
from input_pipeline.source import Source
from input_pipeline.unreadable import UnreadableTally
from rankclip_jax import report, settings, train_state
from rankclip_jax import workdir as workdirs
from rankclip_jax.checkpoints import Checkpoints
from rankclip_jax.evaluation.evaluator import Evaluator, format_table, write_results
from rankclip_jax.hooks import Hook
from rankclip_jax.hooks.evaluating import Evaluating
from rankclip_jax.hooks.interruption import Interrupted, Interruption
from rankclip_jax.hooks.logs import Logs
from rankclip_jax.hooks.saving import Saving
from rankclip_jax.interop import loading
from rankclip_jax.models import clip
from rankclip_jax.parallel.mesh import make_mesh, to_devices
from rankclip_jax.train_state import Batch, TrainState


def train(config: ConfigDict, workdir: Path) -> None:
    """Trains the recipe in ``workdir``, or goes on with what is there.

    Raises:
      UserError: the settings, the data or the folder are not usable; nothing has been written.
      SystemExit: the run was interrupted, and has saved.
    """
    settings.check(config, jax.device_count())
    workdirs.check(workdir, config)
    model = clip.build(config.model)
    image_size = model.preset.vision.image_size
    source = input_pipeline.open_source(config.data, "train", image_size=image_size, seed=config.seed)
    validation = (
        input_pipeline.open_source(config.data, "validation", image_size=image_size, seed=config.seed)
        if input_pipeline.has_validation(config.data)
        else None
    )
    total_steps = settings.total_steps(config, len(source))
    mesh = make_mesh()
    evaluator = Evaluator(model, config, validation, mesh) if validation else None
    initial = None if workdirs.has_checkpoint(workdir) else loading.initial_variables(config, model)

    workdirs.write_config(workdir, config)
    checkpoints = Checkpoints(workdir, config.checkpoint.keep)
    latest = checkpoints.latest_step()
    if latest is None and initial:
        state = train_state.start_from(initial, model, config, mesh)
    elif latest is None:
        state = train_state.create(model, config, mesh)
    else:
        state = checkpoints.restore(train_state.describe(model, config, mesh), latest)
    start_step = int(state.step)
    _print_banner(config, workdir, state, mesh, source, validation, total_steps)
    if start_step == total_steps:
        checkpoints.close()
        print(f"This run is finished: {total_steps} steps are done. Its results are in {workdir}/evaluation.")
        return

    unreadable = UnreadableTally(config.data.max_unreadable_share, len(source))
    logs = Logs(
        workdir,
        start_step=start_step,
        total_steps=total_steps,
        every_steps=config.logging.every_steps,
        global_batch_size=config.train.global_batch_size,
        unreadable=unreadable,
    )
    saving = Saving(checkpoints, every_steps=config.checkpoint.every_steps, total_steps=total_steps)
    hooks: list[Hook] = [logs, saving, Interruption(saving, every_steps=config.logging.every_steps)]
    if evaluator:
        every_steps = config.evaluation.every_steps
        hooks.append(Evaluating(evaluator, logs, workdir, every_steps=every_steps, total_steps=total_steps))
    step_function = train_state.make_step(model, config, total_steps, mesh)
    batches = _device_batches(config, model, source, start_step, mesh, unreadable)
    try:
        for step, batch in zip(range(start_step + 1, total_steps + 1), batches, strict=False):
            state, metrics = step_function(state, batch)
            for hook in hooks:
                hook(step, state, metrics)
        if evaluator:
            _show_results(evaluator, state, logs, workdir, total_steps)
    except Interrupted as interrupted:
        print(interrupted)
        sys.exit(interrupted.status)
    finally:
        batches.close()
        for hook in reversed(hooks):
            hook.close()


def _device_batches(
    config: ConfigDict, model: clip.Clip, source: Source, start_step: int, mesh: Mesh, unreadable: UnreadableTally
) -> Generator[Batch]:
    """Batches on the devices, each sent while the step before it is computed."""
    batches = training_batches(
        source,
        image_size=model.preset.vision.image_size,
        context_length=model.preset.text.context_length,
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
            ahead.append((batch.pop("unreadable"), to_devices(batch, mesh)))
            if len(ahead) > 1:
                lines, sent = ahead.pop(0)
                unreadable.add(lines, len(batch["text"]))
                yield sent
    finally:
        batches.close()


def _show_results(evaluator: Evaluator, state: TrainState, logs: Logs, workdir: Path, step: int) -> None:
    """The end of a run: all evaluations, a table, and the report's picture."""
    results, encoded = evaluator(state.variables)
    if jax.process_index() == 0:
        path = write_results(workdir, step, results)
        logs.write({"step": step} | results)
        picture = report.draw(workdir, evaluator.source, encoded)
        print(f"\nEvaluation on {len(encoded.index):,} held-out pairs ({path}):\n{format_table(results)}\n")
        print(f"Report: {picture}")


def _print_banner(
    config: ConfigDict,
    workdir: Path,
    state: TrainState,
    mesh: Mesh,
    source: Source,
    validation: Source | None,
    total_steps: int,
) -> None:
    if jax.process_index() != 0:
        return
    count = sum(math.prod(np.shape(value)) for value in jax.tree.leaves(state.parameters))
    step, batch = int(state.step), config.train.global_batch_size
    epochs = total_steps * batch / len(source)
    lines = {
        "run": f"{workdir}" + (f", going on from step {step}" if step else ""),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}, {jax.process_count()} process(es)",
        "mesh": ", ".join(f"{name} {size}" for name, size in mesh.shape.items()),
        "model": f"{config.model.name}, {count:,} parameters, {config.model.dtype} compute",
        "objective": config.objective.name,
        "data": f"{len(source):,} training pairs, {len(validation) if validation else 0:,} validation pairs",
        "batch": f"{batch:,} pairs a step, {batch // jax.device_count():,} a device",
        "steps": f"{total_steps:,} ({epochs:,.2f} epochs)",
    }
    print("\n".join(f"{name + ':':<11}{line}" for name, line in lines.items()), flush=True)
    if len(source) < batch:
        print(f"note: {len(source)} pairs are fewer than a batch of {batch}, so pairs repeat within a batch")
