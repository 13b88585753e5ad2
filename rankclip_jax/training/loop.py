"""The story of a run: check, restore or initialise, step, and show what was learned."""

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

import input_pipeline
from input_pipeline.loader import check_readable
from input_pipeline.source import Source
from input_pipeline.unreadable import UnreadableTally
from rankclip_jax.evaluation import results
from rankclip_jax.evaluation.evaluator import Evaluated, Evaluator
from rankclip_jax.hooks import Hook, StepInfo
from rankclip_jax.hooks.divergence import Divergence
from rankclip_jax.hooks.evaluation import Evaluation
from rankclip_jax.hooks.interruption import Interrupted, Interruption
from rankclip_jax.hooks.logging import Logging
from rankclip_jax.hooks.saving import Saving
from rankclip_jax.interop import loading
from rankclip_jax.parallel.layout import make_mesh
from rankclip_jax.parallel.processes import is_first, sum_over_all
from rankclip_jax.report import picture
from rankclip_jax.telemetry.clock import Clock
from rankclip_jax.telemetry.console import say
from rankclip_jax.telemetry.writers import JsonLines, TensorBoard, Writer
from rankclip_jax.training import schedule, settings
from rankclip_jax.training import workdir as workdirs
from rankclip_jax.training.assembly import Assembly, assemble
from rankclip_jax.training.batches import device_batches
from rankclip_jax.training.checkpoints import Checkpoints, set_aside_after
from rankclip_jax.training.compilation import compile_step, explained_memory
from rankclip_jax.training.state import TrainState, create, describe

_HEADLINES = ("validation/loss", "zero_shot/top_1", "retrieval/image_to_text/recall_1", "ranking/kendall_tau")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
      step: updates done.
      finished: whether that is all of them.
      signal_number: the signal that stopped it, having saved; None: none did.
      results: the evaluation at the end, by name; None where there was none.
    """

    step: int
    finished: bool
    signal_number: int | None = None
    results: Mapping[str, float | None] | None = None


def train(config: ConfigDict, workdir: Path, mesh: Mesh | None = None) -> Outcome:
    """Trains the recipe in ``workdir``, or goes on with what is there.

    Args:
      config: the settings.
      workdir: the run's folder; made when the step is compiled and the first batch is there.
      mesh: the devices; None: all.

    Raises:
      UserError: the settings, the data or the folder are not usable, or memory does not suffice: nothing has been
        written. Or the run has diverged, or too many records cannot be read: what was saved before stays.
    """
    mesh = mesh or make_mesh()
    settings.check(config, mesh.size)
    workdirs.check_writable(workdir)
    source, validation = _open_data(config)
    config, stored = workdirs.agree(workdir, config, len(source))
    total_steps = settings.total_steps(config, len(source))
    assembly = assemble(config, mesh, total_steps)
    evaluator = Evaluator(assembly, validation) if validation else None
    state = _restore_or_initialise(assembly, workdir, stored, len(source))
    start_step = int(state.step)
    _print_banner(assembly, workdir, state, source, validation)
    if start_step >= total_steps:
        return _finished_before(workdir, state, evaluator)

    tally = UnreadableTally(
        config.data.max_unreadable_share,
        len(source),
        every_batches=config.logging.every_steps,
        sum_over_all=sum_over_all,
    )
    step_function = compile_step(assembly, announce=is_first())
    with contextlib.ExitStack() as stack:
        batches = stack.enter_context(contextlib.closing(device_batches(assembly, source, start_step, tally)))
        batch = next(batches)
        workdirs.write_config(workdir, config)
        logging, hooks = _make_hooks(assembly, workdir, start_step, tally, evaluator)
        for hook in hooks:
            stack.enter_context(hook)
        try:
            for step in range(start_step + 1, total_steps + 1):
                with explained_memory(assembly):
                    state, metrics = step_function(state, batch)
                info = StepInfo(step, start_step + 1, total_steps, state, metrics)
                for hook in hooks:
                    hook(info)
                if step < total_steps:
                    batch = next(batches)
        except Interrupted as interrupted:
            return Outcome(interrupted.step, finished=False, signal_number=interrupted.signal_number)
        evaluated = _show_results(evaluator, state, workdir, total_steps, logging)
    return Outcome(total_steps, finished=True, results=evaluated)


def _open_data(config: ConfigDict) -> tuple[Source, Source | None]:
    """The training data and, where there are some, the validation data, a few of each looked at."""
    image_size = settings.image_size(config)
    source = input_pipeline.open_source(config.data, "train", image_size=image_size, seed=config.seed)
    check_readable(source, "config.data.train")
    if not input_pipeline.has_validation(config.data):
        return source, None
    validation = input_pipeline.open_source(config.data, "validation", image_size=image_size, seed=config.seed)
    check_readable(validation, "config.data.validation")
    return source, validation


def _restore_or_initialise(assembly: Assembly, workdir: Path, stored: ConfigDict | None, examples: int) -> TrainState:
    """The newest checkpoint that the run can go on from, or else the weights to start from, or else a draw."""
    if stored is None:
        return create(assembly, loading.weights_to_start_from(assembly.config, assembly.model))
    steps, before, now = workdirs.saved_steps(workdir), settings.total_steps(stored, examples), assembly.total_steps
    assert now is not None
    step = steps[-1]
    if before != now:
        step = schedule.step_to_lengthen_from(assembly.config.optimizer, before, now, steps)
        if (aside := set_aside_after(workdir, step)) and is_first():
            say(f"note: goes back to step {step}, before the rate fell; later checkpoints are now in {aside}")
    checkpoints = Checkpoints(workdir, len(steps))
    try:
        return checkpoints.restore(describe(assembly), step)
    finally:
        checkpoints.close()


def _make_hooks(
    assembly: Assembly, workdir: Path, start_step: int, tally: UnreadableTally, evaluator: Evaluator | None
) -> tuple[Logging, list[Hook]]:
    """What happens beside the step, in this order; the logs apart, since evaluations are written there too."""
    config, total_steps = assembly.config, assembly.total_steps
    assert total_steps is not None
    clock = Clock(start_step, config.train.global_batch_size)
    writers: list[Writer] = []
    if is_first():
        writers = [JsonLines(workdir / "metrics.jsonl", start_step), TensorBoard(workdir / "tensorboard", start_step)]
    logging = Logging(
        writers,
        clock,
        pairs_a_step=config.train.global_batch_size,
        every_steps=config.logging.every_steps,
        unreadable=lambda: tally.count,
    )
    decay = schedule.decay_start(config.optimizer, total_steps)
    checkpoints = Checkpoints(workdir, config.checkpoint.keep, always_kept=[decay] if decay < total_steps else [])
    saving = Saving(checkpoints, every_steps=config.checkpoint.every_steps, also_at=decay)
    divergence = Divergence(
        config.logging.every_steps,
        config.checkpoint.every_steps,
        config.evaluation.every_steps,
        last_good_step=checkpoints.latest_step,
    )

    def save_if_finite(info: StepInfo) -> None:
        divergence.check(info)
        saving.save(info)

    def evaluate(info: StepInfo) -> None:
        if evaluator:
            evaluated = _evaluate(evaluator, info.state, workdir, info.step, logging)
            shown = [f"{name} {evaluated[name]:.4f}" for name in _HEADLINES if evaluated.get(name) is not None]
            if is_first():
                say(f"evaluation at step {info.step}: {'  '.join(shown)}")
            clock.restart(info.step)

    return logging, [
        logging,
        divergence,
        saving,
        Interruption(save_if_finite, every_steps=config.logging.every_steps),
        Evaluation(evaluate, every_steps=config.evaluation.every_steps),
    ]


def _evaluate(
    evaluator: Evaluator, state: TrainState, workdir: Path, step: int, logging: Logging | None
) -> dict[str, float | None]:
    return _write(evaluator(state.variables_of(evaluator.weights)), workdir, step, logging)


def _write(evaluated: Evaluated, workdir: Path, step: int, logging: Logging | None) -> dict[str, float | None]:
    """Writes results to their file and to the logs; the results by name."""
    found = {metric.name: metric.value for metric in evaluated.metrics}
    if is_first():
        results.write(workdir, step, evaluated.metrics)
    if logging:
        logging.write(step, found)
    return found


def _show_results(
    evaluator: Evaluator | None, state: TrainState, workdir: Path, step: int, logging: Logging | None
) -> dict[str, float | None] | None:
    """The end of a run: all evaluations, a table, and the report's picture."""
    if evaluator is None:
        if is_first():
            say("note: there are no validation data, so nothing is evaluated and no report is drawn")
        return None
    if is_first():
        say(f"evaluating on {evaluator.size:,} held-out pairs")
    evaluated = evaluator(state.variables_of(evaluator.weights))
    found = _write(evaluated, workdir, step, logging)
    if is_first():
        drawn = picture.draw(workdir, evaluator.source, evaluated.embedded)
        count, path = len(evaluated.embedded.index), results.path_of(workdir, step)
        say(f"\nEvaluation on {count:,} held-out pairs ({path}):\n{results.format_table(evaluated.metrics)}\n")
        say(f"Report: {drawn}")
    return found


def _finished_before(workdir: Path, state: TrainState, evaluator: Evaluator | None) -> Outcome:
    """Nothing is left to train; what was cut off after it, the evaluation or the report, is made now."""
    step = int(state.step)
    there = results.path_of(workdir, step).exists() and (workdir / picture.NAME).exists()
    found = _show_results(evaluator, state, workdir, step, None) if evaluator and not there else None
    if is_first():
        say(
            f"This run is finished: {step} steps are done."
            + (f" Its results are in {workdir}/evaluation." if evaluator else "")
            + " To train longer, raise --config.train.steps where the learning rate allows it, or start another run "
            f"from its weights: --config.init_from={workdir} --workdir=OTHER"
        )
    return Outcome(step, finished=True, results=found)


def _print_banner(
    assembly: Assembly, workdir: Path, state: TrainState, source: Source, validation: Source | None
) -> None:
    if not is_first():
        return
    config, mesh = assembly.config, assembly.layout.mesh
    count = sum(math.prod(np.shape(value)) for value in jax.tree.leaves(state.parameters))
    step, batch, total_steps = int(state.step), config.train.global_batch_size, assembly.total_steps or 0
    epochs = total_steps * batch / len(source)
    lines = {
        "run": f"{workdir}" + (f", going on from step {step}" if step else ""),
        "devices": f"{mesh.size} x {mesh.devices.flat[0].device_kind}, {jax.process_count()} process(es)",
        "mesh": ", ".join(f"{name} {size}" for name, size in mesh.shape.items()),
        "model": f"{config.model.name}, {count:,} parameters, {config.model.dtype} compute",
        "objective": config.objective.name,
        "data": f"{len(source):,} training pairs, {len(validation) if validation else 0:,} validation pairs",
        "batch": f"{batch:,} pairs a step, {batch // mesh.size:,} a device",
        "steps": f"{total_steps:,} ({epochs:,.2f} epochs)",
    }
    say("\n".join(f"{name + ':':<11}{line}" for name, line in lines.items()))
    if len(source) < batch:
        say(f"note: {len(source)} pairs are fewer than a batch of {batch}, so pairs repeat within a batch")
