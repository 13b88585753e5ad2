"""The story of a run: check, restore or initialise, step, and show what was learned."""

import contextlib
import dataclasses
import functools
import math
import zlib
from collections.abc import Callable, Mapping, Set
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

import input_pipeline
from input_pipeline.errors import UserError
from input_pipeline.loader import check_readable
from input_pipeline.source import Source, captions
from input_pipeline.unreadable import UnreadableTally
from rankclip_jax.evaluation import results
from rankclip_jax.evaluation.evaluator import Evaluated, Evaluator
from rankclip_jax.hooks import Hook, StepInfo
from rankclip_jax.hooks.evaluation import Evaluation
from rankclip_jax.hooks.finiteness import Finiteness, GoBack
from rankclip_jax.hooks.interruption import Interrupted, Interruption
from rankclip_jax.hooks.logging import Logging
from rankclip_jax.hooks.oddities import Oddities
from rankclip_jax.hooks.saving import Saving
from rankclip_jax.interop import loading
from rankclip_jax.objectives.objective import Metrics
from rankclip_jax.parallel import start_up
from rankclip_jax.parallel.layout import table
from rankclip_jax.parallel.mesh import make_mesh
from rankclip_jax.parallel.processes import is_first, sum_over_all
from rankclip_jax.report import picture
from rankclip_jax.run import schedule, settings
from rankclip_jax.run import workdir as workdirs
from rankclip_jax.run.assembly import Assembly, assemble
from rankclip_jax.run.checkpoints import Checkpoints, choose_whole, read_state, set_aside
from rankclip_jax.run.forward import Batch
from rankclip_jax.run.lock import Lock
from rankclip_jax.run.state import TrainState, create, describe
from rankclip_jax.run.step import StepFunction
from rankclip_jax.telemetry.console import say
from rankclip_jax.telemetry.events import Events
from rankclip_jax.telemetry.watchdog import Watchdog
from rankclip_jax.training.batches import device_batches, records_of_step
from rankclip_jax.training.compilation import ExplainedMemory, compile_step
from rankclip_jax.training.rehearsal import rehearse

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


def train(config: ConfigDict, workdir: Path, mesh: Mesh | None = None, *, dry_run: bool = False) -> Outcome:
    """Trains the recipe in ``workdir``, or goes on with what is there.

    Args:
      config: the settings.
      workdir: the run's folder; made when the step is compiled and the first batch is there.
      mesh: the devices; None: all.
      dry_run: do everything once, keep nothing of it, and stop.

    Raises:
      UserError: the settings, the data or the folder are not usable, or memory does not suffice: nothing has been
        written. Or the run has diverged, or too many records cannot be read: what was saved before stays.
    """
    settings.check(config, mesh.size if mesh else jax.device_count())
    mesh = mesh or make_mesh(config.mesh)
    workdirs.check_writable(workdir)
    source, validation = _open_data(config)
    with Lock(workdir) as lock:
        if workdirs.saved_steps(workdir) and is_first():
            lock.take()
        config, stored = workdirs.agree(workdir, config, len(source))
        total_steps = settings.total_steps(config, len(source))
        start_up.check_same_on_all(_what_all_share(config, source))
        assembly = assemble(config, mesh, total_steps, len(source))
        evaluator = Evaluator(assembly, validation) if validation else None
        start = _choose_start(assembly, workdir, stored, len(source))
        with ExplainedMemory(assembly):
            state = _restore_or_initialise(assembly, workdir, start)
        _print_banner(assembly, workdir, start.step, state, source, validation)
        if start.step == total_steps:
            return _finished_before(assembly, workdir, state, evaluator)

        step_function = compile_step(assembly, announce=is_first())
        if dry_run:
            rehearse(assembly, source, workdir, step_function, state, _make_tally(config, source))
            return Outcome(start.step, finished=False)
        run = _Run(assembly, workdir, source, evaluator, step_function, lock, Events(workdir))
        left_out: set[int] = set()
        while True:
            try:
                return _take_steps(run, start, state, left_out)
            except GoBack as back:
                left_out.add(back.step)
            start = _newest(workdir)
            state = _restore_or_initialise(assembly, workdir, start)
            if is_first():
                say(f"going on from step {start.step}")


@dataclasses.dataclass(frozen=True)
class _Run:
    """What stays the same when a run goes back."""

    assembly: Assembly
    workdir: Path
    source: Source
    evaluator: Evaluator | None
    step_function: StepFunction
    lock: Lock
    events: Events


def _take_steps(run: _Run, start: "_Start", state: TrainState, left_out: Set[int]) -> Outcome:
    """From a state to the end of the run, and what is said of it there.

    Raises:
      GoBack: the run is to go on from its last checkpoint.
    """
    assembly, workdir = run.assembly, run.workdir
    config, total_steps, memory = assembly.config, assembly.total_steps, ExplainedMemory(assembly)
    assert total_steps is not None
    tally = _make_tally(config, run.source)
    with contextlib.ExitStack() as stack:
        watchdog = stack.enter_context(Watchdog(config.processes.hang_seconds))
        batches = stack.enter_context(contextlib.closing(device_batches(assembly, run.source, start.step, tally)))
        with memory, watchdog.during("the wait for the first batch"):
            batch = next(batches)
        _settle(run, start)
        logging = stack.enter_context(_make_logging(assembly, workdir, start.step, lambda: tally.count))
        try:
            with contextlib.ExitStack() as inner:
                hooks, interruption = _enter_hooks(inner, run, logging)
                for step in range(start.step + 1, total_steps + 1):
                    interruption.step_begins()
                    with memory, jax.transfer_guard("disallow"), watchdog.during(f"step {step}"):
                        state, metrics = (_leave_out if step in left_out else run.step_function)(state, batch)
                    info = StepInfo(step, start.step + 1, total_steps, state, metrics)
                    for hook in hooks:
                        with watchdog.during(f"{type(hook).__name__.lower()} after step {step}"):
                            hook(info)
                    if step < total_steps:
                        with watchdog.during(f"the wait for the batch of step {step + 1}"):
                            batch = next(batches)
                batches.close()  # what decodes has nothing left to do
        except Interrupted as interrupted:
            return Outcome(interrupted.step, finished=False, signal_number=interrupted.signal_number)
        with watchdog.during("the evaluation at the end"):
            found = _show_results(run.evaluator, state, workdir, total_steps, logging)
    return Outcome(total_steps, finished=True, results=found)


def _make_tally(config: ConfigDict, source: Source) -> UnreadableTally:
    share, every = config.data.max_unreadable_share, config.logging.every_steps
    return UnreadableTally(share, len(source), every_batches=every, sum_over_all=sum_over_all)


def _leave_out(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    """A step that takes no notice of its batch, and has nothing to tell."""
    del batch
    return _count(state), {}


@functools.partial(jax.jit, donate_argnums=0)
def _count(state: TrainState) -> TrainState:
    return dataclasses.replace(state, step=state.step + 1)


def _settle(run: _Run, start: "_Start") -> None:
    """The step is compiled and the first batch is there: from here on things are written."""
    if start.aside:
        folder = set_aside(run.workdir, start.aside)
        if is_first():
            say(f"note: checkpoints that are not used are now in {folder}")
    workdirs.write_config(run.workdir, run.assembly.config)
    if is_first():
        run.lock.take()
        if not start.saved and workdirs.saved_steps(run.workdir):
            raise UserError(f"--workdir: another run was begun in {run.workdir} meanwhile. Give the command again.")


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


def _what_all_share(config: ConfigDict, source: Source) -> dict[str, object]:
    """What every process of a run must have alike: settings, and data by their number and a few captions."""
    few = range(0, len(source), -(-len(source) // 8))
    told = zlib.crc32(repr([captions(source[index]) for index in few]).encode())
    values = dict(settings.flatten(settings.to_dict(config)))
    alike = {
        f"config.{name}": value
        for name, value in values.items()
        if not name.startswith(("data.threads", "data.workers"))
    }
    return {**alike, "training data": f"{len(source):,} records, captions {told:08x}"}


@dataclasses.dataclass(frozen=True)
class _Start:
    """The step to go on from, 0 for a new run, whether it is saved, and checkpoints that the run cannot use."""

    step: int = 0
    saved: bool = False
    aside: tuple[int, ...] = ()


def _choose_start(assembly: Assembly, workdir: Path, stored: ConfigDict | None, examples: int) -> _Start:
    """Where the run goes on: from its newest whole checkpoint, or where it is to be longer, one that can be."""
    if stored is None:
        return _Start()
    before, now = settings.total_steps(stored, examples), assembly.total_steps
    assert now is not None
    if before == now:
        return _newest(workdir)
    lengthen = functools.partial(schedule.step_to_lengthen_from, assembly.config.optimizer, before, now)
    step, broken = choose_whole(workdir, lengthen)
    later = {later for later in workdirs.saved_steps(workdir) if later > step}
    if is_first():
        say(f"note: to become {now} steps long the run goes back to step {step}, before its rate fell")
    return _Start(step, saved=True, aside=tuple(sorted(later.union(broken))))


def _newest(workdir: Path) -> _Start:
    """The newest whole checkpoint that the run has saved, or its very start."""
    if not workdirs.saved_steps(workdir):
        return _Start()
    step, broken = choose_whole(workdir)
    return _Start(step, saved=True, aside=tuple(broken))


def _restore_or_initialise(assembly: Assembly, workdir: Path, start: _Start) -> TrainState:
    """The checkpoint to go on from, or else the weights to start from, or else a draw."""
    if not start.saved:
        return create(assembly, loading.weights_to_start_from(assembly.config, assembly.model))
    return read_state(workdir, describe(assembly), start.step)


def _make_logging(assembly: Assembly, workdir: Path, start_step: int, unreadable: Callable[[], int]) -> Logging:
    config = assembly.config
    return Logging(
        workdir if is_first() else None,
        start_step,
        pairs_a_step=config.train.global_batch_size,
        every_steps=config.logging.every_steps,
        unreadable=unreadable,
    )


def _enter_hooks(stack: contextlib.ExitStack, run: _Run, logging: Logging) -> tuple[list[Hook], Interruption]:
    """What happens beside the step, in this order, and the one of them that hears of its beginning too."""
    assembly, workdir, evaluator = run.assembly, run.workdir, run.evaluator
    config, total_steps = assembly.config, assembly.total_steps
    assert total_steps is not None
    decay = schedule.decay_start(config.optimizer, total_steps)
    checkpoints = Checkpoints(workdir, assembly, always_kept=[decay] if decay < total_steps else [])
    every = config.logging.every_steps
    saving = Saving(checkpoints, config.checkpoint, also_at=decay, look_every=every, events=run.events)
    stack.enter_context(saving)
    finiteness = Finiteness(
        config.train.when_not_finite,
        config.train.not_finite_limit,
        config.logging.every_steps,
        config.checkpoint.every_steps,
        config.evaluation.every_steps,
        records_of=functools.partial(records_of_step, assembly, run.source),
        events=run.events,
        kept=checkpoints.kept,
    )

    def save_if_finite(info: StepInfo) -> None:
        finiteness.check()
        saving.save(info)

    def evaluate(info: StepInfo) -> None:
        if evaluator:
            found = _write(evaluator(info.state.variables_of(evaluator.weights)), workdir, info.step, logging)
            shown = [f"{name} {found[name]:.4f}" for name in _HEADLINES if found.get(name) is not None]
            if is_first():
                say(f"evaluation at step {info.step}: {'  '.join(shown)}")
            logging.restart_clock(info.step)

    interruption = Interruption(save_if_finite, every_steps=every, patience=config.checkpoint.patience_seconds)
    stack.enter_context(interruption)
    evaluation = Evaluation(evaluate, every_steps=config.evaluation.every_steps)
    return [logging, Oddities(every, run.events), finiteness, saving, interruption, evaluation], interruption


def _write(evaluated: Evaluated, workdir: Path, step: int, logging: Logging) -> dict[str, float | None]:
    """Writes results to their file and to the logs; the results by name."""
    found = {metric.name: metric.value for metric in evaluated.metrics}
    if is_first():
        results.write(workdir, step, evaluated.metrics)
    logging.write(step, found)
    return found


def _show_results(
    evaluator: Evaluator | None, state: TrainState, workdir: Path, step: int, logging: Logging
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


def _finished_before(assembly: Assembly, workdir: Path, state: TrainState, evaluator: Evaluator | None) -> Outcome:
    """Nothing is left to train; what was cut off after it, the evaluation or the report, is made now."""
    step, found = int(state.step), None
    measured, drawn = results.path_of(workdir, step), workdir / picture.NAME
    there = measured.exists() and drawn.exists() and drawn.stat().st_mtime >= measured.stat().st_mtime
    if evaluator and not there:
        with _make_logging(assembly, workdir, step, lambda: 0) as logging:
            found = _show_results(evaluator, state, workdir, step, logging)
    if is_first():
        say(
            f"This run is finished: {step} steps are done."
            + (f" Its results are in {workdir}/evaluation." if evaluator else "")
            + " To train longer, raise --config.train.steps where the learning rate allows it, or start another run "
            f"from its weights: --config.init_from={workdir} --workdir=OTHER"
        )
    return Outcome(step, finished=True, results=found)


def _print_banner(
    assembly: Assembly, workdir: Path, step: int, state: TrainState, source: Source, validation: Source | None
) -> None:
    if not is_first():
        return
    config, mesh = assembly.config, assembly.layout.mesh
    count = sum(math.prod(np.shape(value)) for value in jax.tree.leaves(state.parameters))
    batch, total_steps = config.train.global_batch_size, assembly.total_steps or 0
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
    if assembly.layout.shards > 1:
        arrays = table({"parameters": state.parameters}, assembly.layout)
        say(f"parameters, split over the axis fsdp:\n{arrays}")
    if len(source) < batch:
        say(f"note: {len(source)} pairs are fewer than a batch of {batch}, so pairs repeat within a batch")
