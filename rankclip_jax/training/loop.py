"""The story of a run: check, restore or initialise, step, and show what was learned."""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Set
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rankclip_jax.checkpoints import workdir as workdirs
from rankclip_jax.checkpoints.lock import Lock
from rankclip_jax.checkpoints.manager import Checkpoints, set_aside
from rankclip_jax.cli.console import say
from rankclip_jax.distributed import start_up
from rankclip_jax.distributed.mesh import make_mesh
from rankclip_jax.distributed.processes import is_primary_process, max_across_processes, sum_across_processes
from rankclip_jax.distributed.sharding import table
from rankclip_jax.evaluation import results
from rankclip_jax.evaluation.evaluator import Evaluator
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.object_stores import path_of, time_of
from rankclip_jax.input_pipeline.source import Source
from rankclip_jax.input_pipeline.unreadable import UnreadableTally
from rankclip_jax.monitoring import summary_figure
from rankclip_jax.monitoring.events import Events
from rankclip_jax.monitoring.goodput import Ledger
from rankclip_jax.monitoring.heartbeat import Heartbeat
from rankclip_jax.monitoring.timeline import Timeline
from rankclip_jax.monitoring.watchdog import Watchdog
from rankclip_jax.monitoring.writers import check_writers, make_writers
from rankclip_jax.objectives.objective import Metrics
from rankclip_jax.planning.hardware import peak_flops
from rankclip_jax.planning.plan import useful_flops
from rankclip_jax.settings.schema import import_parts
from rankclip_jax.training import input_sizes, schedule
from rankclip_jax.training.batches import device_batches, records_of_step
from rankclip_jax.training.compilation import ExplainMemory, compile_step
from rankclip_jax.training.data import check_unchanged, open_data, shared_facts, write_identity
from rankclip_jax.training.dry_run import perform_dry_run
from rankclip_jax.training.experiment import Experiment, build_experiment, check, resolve
from rankclip_jax.training.forward import Batch
from rankclip_jax.training.hooks import Hook, StepInfo
from rankclip_jax.training.hooks.anomalies import AnomalyHook
from rankclip_jax.training.hooks.checkpointing import Saving
from rankclip_jax.training.hooks.evaluation import Evaluation
from rankclip_jax.training.hooks.finiteness import NonFiniteHook, Rollback
from rankclip_jax.training.hooks.interruption import Interrupted, Interruption
from rankclip_jax.training.hooks.logging import Logging
from rankclip_jax.training.hooks.profiling import Profiling
from rankclip_jax.training.results import show_results, write_results
from rankclip_jax.training.resumption import Start, choose_start, newest, resolve_config, restore_or_initialise
from rankclip_jax.training.resumption import total_steps as total_steps_of
from rankclip_jax.training.state import TrainState, abstract_state
from rankclip_jax.training.step import StepFunction, trace_step

_HEADLINES = ("validation/loss", "zero_shot/top_1", "retrieval/image_to_text/recall_1", "ranking/kendall_tau")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
      step: updates done.
      finished: whether that is all of them.
      signal_number: the signal that stopped it, having saved; None: none did.
      results: the evaluation that this call made at the end, by name; None: it made none.
    """

    step: int
    finished: bool
    signal_number: int | None = None
    results: Mapping[str, float | None] | None = None


def train(
    config: ConfigDict,
    workdir: Path | str,
    mesh: Mesh | None = None,
    *,
    dry_run: bool = False,
    started: float | None = None,
    recipe: Path | None = None,
) -> Outcome:
    """Trains the recipe in ``workdir``, or goes on with what is there.

    Args:
      config: the settings.
      workdir: the run's folder; made when the step is compiled and the first batch is there.
      mesh: the devices; None: all.
      dry_run: do everything once, keep nothing of it, and stop.
      started: when the process began, by `time.monotonic`, for the ledger of its time; None: now.
      recipe: the file that the settings are from, of which the workdir gets a copy; None: there is none.

    Raises:
      UserError: the settings, the data or the folder are not usable, or memory does not suffice: nothing has been
        written. Or the run has diverged, or too many records cannot be read: what was saved before stays.
    """
    started = time.monotonic() if started is None else started
    workdir = path_of(str(workdir))
    import_parts(config)
    config = resolve(config)
    check(config, mesh.size if mesh else jax.device_count())
    mesh = mesh or make_mesh(config.mesh)
    check_writers(config)
    workdirs.check_writable(workdir)
    source, validation = open_data(config)
    with Lock(workdir) as lock:
        if (workdirs.saved_steps(workdir) or workdirs.misnamed(workdir)) and is_primary_process():
            lock.take()
        config, stored = resolve_config(workdir, config, len(source))
        total_steps = total_steps_of(config, len(source))
        start_up.check_same_on_all(shared_facts(config, source))
        if stored:
            check_unchanged(workdir, source)
        experiment = build_experiment(config, mesh, total_steps, len(source))
        evaluator = _make_evaluator(experiment, validation)
        start = choose_start(experiment, workdir, stored, len(source))
        timeline = Timeline()
        timeline.add("start", time.monotonic() - started)
        with ExplainMemory(experiment), timeline.span("recovery" if start.saved else "start", "the first state"):
            state = restore_or_initialise(experiment, workdir, start)
        _print_banner(experiment, workdir, start.step, state, source, validation)
        if start.step == total_steps:
            return _finished_before(experiment, workdir, state, evaluator)

        with timeline.span("compile", "the compilation"):
            step_function = compile_step(experiment, announce=is_primary_process())
        if dry_run:
            perform_dry_run(experiment, source, workdir, step_function, state, _make_tally(config, source))
            return Outcome(start.step, finished=False)
        ledger = Ledger(workdir, timeline, started)
        run = _Run(
            experiment, workdir, source, evaluator, step_function, lock, Events(workdir), timeline, ledger, recipe
        )
        skipped_steps: set[int] = set()
        while True:
            try:
                return _take_steps(run, start, state, skipped_steps)
            except Rollback as back:
                skipped_steps.add(back.step)
            with timeline.span("recovery", "the way back to the last checkpoint"):
                start = newest(workdir)
                state = restore_or_initialise(experiment, workdir, start)
            if is_primary_process():
                say(f"going on from step {start.step}")


def _make_evaluator(experiment: Experiment, validation: Source | None) -> Evaluator | None:
    if validation is None:
        return None
    return Evaluator(experiment.model, experiment.layout, experiment.config, experiment.objective, validation)


@dataclasses.dataclass(frozen=True)
class _Run:
    """What stays the same when a run goes back."""

    experiment: Experiment
    workdir: Path
    source: Source
    evaluator: Evaluator | None
    step_function: StepFunction
    lock: Lock
    events: Events
    timeline: Timeline
    ledger: Ledger
    recipe: Path | None


def _take_steps(run: _Run, start: Start, state: TrainState, skipped_steps: Set[int]) -> Outcome:
    """From a state to the end of the run, and what is said of it there.

    Raises:
      Rollback: the run is to go on from its last checkpoint.
    """
    experiment, workdir, timeline = run.experiment, run.workdir, run.timeline
    config, total_steps, memory = experiment.config, experiment.total_steps, ExplainMemory(experiment)
    tally = _make_tally(config, run.source)
    with contextlib.ExitStack() as stack:
        stack.enter_context(Watchdog(timeline, config.processes.hang_seconds))
        batches = stack.enter_context(contextlib.closing(device_batches(experiment, run.source, start.step, tally)))
        with memory, timeline.span("start", "the wait for the first batch"):
            batch = next(batches)
        _prepare_workdir(run, start)
        if is_primary_process():
            run.ledger.begin(start.step)
            stack.enter_context(Heartbeat(workdir, timeline, run.ledger, total_steps=total_steps))
        logging = stack.enter_context(_make_logging(experiment, workdir, start.step, lambda: tally.count, timeline))
        try:
            with contextlib.ExitStack() as inner:
                hooks, interruption = _enter_hooks(inner, run, logging, start.step)
                for step in range(start.step + 1, total_steps + 1):
                    interruption.step_begins()
                    take = _skip_step if step in skipped_steps else run.step_function
                    with (
                        memory,
                        jax.transfer_guard("disallow"),
                        timeline.span("step", f"step {step}"),
                        jax.profiler.StepTraceAnnotation("train", step_num=step),
                    ):
                        state, metrics = take(state, batch)
                    timeline.step = step
                    info = StepInfo(step, start.step + 1, total_steps, state, metrics)
                    for cause, hook in hooks:
                        with timeline.span(cause, f"{type(hook).__name__.lower()} after step {step}"):
                            hook(info)
                    if step < total_steps:
                        with timeline.span("input", f"the wait for the batch of step {step + 1}"):
                            batch = next(batches)
                batches.close()  # what decodes has nothing left to do
        except Interrupted as interrupted:
            return Outcome(interrupted.step, finished=False, signal_number=interrupted.signal_number)
        with timeline.span("evaluation", "the evaluation at the end"):
            found = show_results(run.evaluator, state, workdir, total_steps, logging)
    return Outcome(total_steps, finished=True, results=found)


def _make_tally(config: ConfigDict, source: Source) -> UnreadableTally:
    share, every = config.data.max_unreadable_fraction, config.logging.every_steps
    return UnreadableTally(share, len(source), every_batches=every, sum_across_processes=sum_across_processes)


def _skip_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """A step that takes no notice of its batch, and has nothing to tell."""
    del batch
    return _count(state), {}


@functools.partial(jax.jit, donate_argnums=0)
def _count(state: TrainState) -> TrainState:
    return dataclasses.replace(state, step=state.step + 1)


def _prepare_workdir(run: _Run, start: Start) -> None:
    """The step is compiled and the first batch is there: from here on things are written."""
    if is_primary_process():
        run.workdir.mkdir(parents=True, exist_ok=True)
        run.lock.take()
        if not start.saved and workdirs.saved_steps(run.workdir):
            raise UserError(f"--workdir: another run was begun in {run.workdir} meanwhile. Give the command again.")
    if start.aside:
        folder = set_aside(run.workdir, start.aside)
        if is_primary_process():
            say(f"note: checkpoints that are not used are now in {folder}")
    write_identity(run.workdir, run.source)
    workdirs.write_config(run.workdir, run.experiment.config, run.recipe)


def _restore_folder(run: _Run, checkpoints: Checkpoints, step: int) -> None:
    """Puts back what was removed or renamed of the run's folder while it trains; all processes come here together.

    Raises:
      UserError: another run is in the folder now.
    """
    restored, replaced = False, None
    if is_primary_process():
        try:
            restored = workdirs.restore(run.workdir, run.experiment.config, run.lock, step)
        except UserError as error:
            replaced = error
        except OSError:  # the save that follows will say so
            pass
    match max_across_processes(2 if replaced else int(restored)):
        case 2:
            raise replaced or UserError(f"--workdir: {run.workdir} was replaced while this run trained in it.")
        case 1:
            checkpoints.reopen()
            run.events.write("workdir_restored", step=step)
            run.events.say(
                f"note: {run.workdir}, or what belongs in it, was removed or renamed during training. It is made anew, "
                "and training continues; earlier checkpoints and logs are where they were moved to, if anywhere."
            )


def _make_logging(
    experiment: Experiment, workdir: Path, start_step: int, unreadable: Callable[[], int], timeline: Timeline
) -> Logging:
    config, peak = experiment.config, peak_flops(experiment.layout.mesh.devices.flat[0].device_kind)
    return Logging(
        make_writers(workdir, start_step, config) if is_primary_process() else [],
        start_step,
        timeline,
        useful_share=useful_flops(trace_step, config, list(experiment.layout.mesh.devices.flat))
        / (peak * experiment.layout.mesh.size)
        if peak
        else None,
        pairs_per_step=config.train.global_batch_size,
        every_steps=config.logging.every_steps,
        unreadable=unreadable,
    )


def _enter_hooks(
    stack: contextlib.ExitStack, run: _Run, logging: Logging, start_step: int
) -> tuple[list[tuple[str, Hook]], Interruption]:
    """What happens beside the step, in this order, with what it counts as, and the one that hears of beginnings too."""
    experiment, workdir, evaluator = run.experiment, run.workdir, run.evaluator
    config, total_steps = experiment.config, experiment.total_steps
    decay = schedule.decay_start(config.optimizer, total_steps)
    checkpoints = Checkpoints(
        workdir, config, abstract_state(experiment), always_kept=[decay] if decay < total_steps else []
    )
    every = config.logging.every_steps

    def before_save(step: int) -> None:
        _restore_folder(run, checkpoints, step)
        logging.flush()

    saving = Saving(
        checkpoints, config.checkpoint, also_at=decay, look_every=every, events=run.events, before=before_save
    )
    stack.enter_context(saving)
    finiteness = NonFiniteHook(
        config.train.on_nonfinite,
        config.train.max_nonfinite_steps,
        config.logging.every_steps,
        config.checkpoint.every_steps,
        config.evaluation.every_steps,
        records_of=functools.partial(records_of_step, experiment, run.source),
        events=run.events,
        kept=checkpoints.kept,
    )

    def save_if_finite(info: StepInfo) -> int:
        try:
            finiteness.check()
        except Rollback:  # where the run goes on from, whenever it does
            return max(workdirs.saved_steps(workdir), default=0)
        saving.save(info)
        return info.step

    def evaluate(info: StepInfo) -> None:
        if evaluator:
            evaluated = evaluator(info.state.variables_of(evaluator.weights), interruption.check_interrupt)
            found = write_results(evaluated, workdir, info.step, logging)
            shown = [f"{name} {found[name]:.4f}" for name in _HEADLINES if found.get(name) is not None]
            if is_primary_process():
                say(f"evaluation at step {info.step}: {'  '.join(shown)}")
            logging.restart_clock(info.step)

    patience, deadline = config.checkpoint.patience_seconds, config.checkpoint.deadline_seconds
    interruption = Interruption(save_if_finite, patience=patience, deadline=deadline)
    stack.enter_context(interruption)
    first, last = config.logging.profile_steps
    profiling = Profiling(workdir / "profile", first, last, start_step, run.events)
    stack.enter_context(profiling)
    hooks: list[tuple[str, Hook]] = [
        ("step", logging),  # which waits for the step, as what looks at its numbers does
        ("step", AnomalyHook(every, run.events)),
        ("step", finiteness),
        ("other", profiling),
        ("checkpoint", saving),
        ("checkpoint", interruption),
        ("evaluation", Evaluation(evaluate, every_steps=config.evaluation.every_steps)),
    ]
    return hooks, interruption


def _finished_before(experiment: Experiment, workdir: Path, state: TrainState, evaluator: Evaluator | None) -> Outcome:
    """Nothing is left to train; what was cut off after it, the evaluation or the report, is made now."""
    step, found = int(state.step), None
    measured, drawn = results.path_of(workdir, step), workdir / summary_figure.NAME
    there = measured.exists() and drawn.exists() and time_of(drawn) >= time_of(measured)
    if evaluator and not there:
        with _make_logging(experiment, workdir, step, lambda: 0, Timeline()) as logging:
            found = show_results(evaluator, state, workdir, step, logging)
    if is_primary_process():
        say(
            f"This run is finished: {step} steps are done."
            + (f" Its results are in {workdir}/evaluation." if evaluator else "")
            + " To train longer, raise --config.train.steps where the learning rate allows it, or start another run "
            f"from its weights: --config.init_from={workdir} --workdir=OTHER"
        )
    return Outcome(step, finished=True, results=found)


def _print_banner(
    experiment: Experiment, workdir: Path, step: int, state: TrainState, source: Source, validation: Source | None
) -> None:
    if not is_primary_process():
        return
    config, mesh = experiment.config, experiment.layout.mesh
    count = sum(math.prod(np.shape(value)) for value in jax.tree.leaves(state.parameters))
    batch, total_steps = config.train.global_batch_size, experiment.total_steps
    epochs = total_steps * batch / len(source)
    lines = {
        "run": f"{workdir}" + (f", going on from step {step}" if step else ""),
        "devices": f"{mesh.size} x {mesh.devices.flat[0].device_kind}, {jax.process_count()} process(es)",
        "mesh": ", ".join(f"{name} {size}" for name, size in mesh.shape.items()),
        "model": f"{config.model.name}, {count:,} parameters, {config.model.dtype} compute",
        **input_sizes.summary(experiment.model.preset),
        "objective": config.objective.name,
        "data": f"{len(source):,} training pairs, {len(validation) if validation else 0:,} validation pairs",
        "batch": f"{batch:,} pairs a step, {batch // mesh.size:,} a device",
        "steps": f"{total_steps:,} ({epochs:,.2f} epochs)",
    }
    say("\n".join(f"{name + ':':<11}{line}" for name, line in lines.items()))
    if experiment.layout.shards > 1:
        arrays = table({"parameters": state.parameters}, experiment.layout)
        say(f"parameters, split over the axis fsdp:\n{arrays}")
    for note in input_sizes.notes(config.model.name, experiment.model.preset, source):
        say(note)
    if len(source) < batch:
        say(f"note: {len(source)} pairs are fewer than a batch of {batch}, so pairs repeat within a batch")
