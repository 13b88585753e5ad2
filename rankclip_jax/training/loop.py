"""The training loop: check the settings, restore or initialise the state, take the steps, and evaluate."""

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rankclip_jax.checkpoints.lock import Lock
from rankclip_jax.cli.console import say
from rankclip_jax.distributed.mesh import make_mesh
from rankclip_jax.distributed.processes import is_primary_process
from rankclip_jax.input_pipeline.object_stores import path_of
from rankclip_jax.monitoring.goodput import Ledger
from rankclip_jax.monitoring.heartbeat import Heartbeat
from rankclip_jax.monitoring.timeline import Timeline
from rankclip_jax.monitoring.watchdog import Watchdog
from rankclip_jax.training import results
from rankclip_jax.training.banner import print_banner
from rankclip_jax.training.batches import device_batches
from rankclip_jax.training.compilation import ExplainMemory, compile_step
from rankclip_jax.training.default_hooks import default_hooks
from rankclip_jax.training.dry_run import perform_dry_run
from rankclip_jax.training.hooks import HOOKS, Hook, StepInfo
from rankclip_jax.training.hooks.interruption import Interrupted
from rankclip_jax.training.hooks.logging import LoggingHook
from rankclip_jax.training.hooks.nonfinite import Rollback
from rankclip_jax.training.preparation import prepare_config, prepare_run, prepare_workdir
from rankclip_jax.training.resumption import Start, newest, restore_or_initialise
from rankclip_jax.training.run import Run
from rankclip_jax.training.state import TrainState
from rankclip_jax.training.step import StepFunction, skip_step


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    Args:
      step: updates done.
      finished: whether all steps are done.
      signal_number: the signal that stopped the run after a save; None: it was not stopped.
      results: the final evaluation that this call made, by name; None: it made none.
    """

    step: int
    finished: bool
    signal_number: int | None = None
    results: Mapping[str, float | None] | None = None


def train(
    config: ConfigDict,
    workdir: Path | str,
    hooks: Sequence[Hook] = (),
    *,
    mesh: Mesh | None = None,
    dry_run: bool = False,
    started: float | None = None,
    recipe: Path | None = None,
) -> Outcome:
    """Trains a run in ``workdir``, or resumes the run that the folder holds.

    Args:
      config: the settings.
      workdir: the run's folder; created once the step is compiled and the first batch is loaded.
      hooks: called before and after each step, in addition to the default hooks.
      mesh: the devices; None: all.
      dry_run: whether to take one step and write one checkpoint, keep nothing, and stop.
      started: when the process started, by `time.monotonic`, for the goodput ledger; None: now.
      recipe: the file that defines the settings, which is copied to the workdir; None: no copy.

    Raises:
      UserError: the settings, the data or the folder are not usable, or the step is out of memory: nothing was
        written. Or the run diverged, or too many records are unreadable: earlier checkpoints stay.
    """
    started = time.monotonic() if started is None else started
    workdir, timeline = path_of(str(workdir)), Timeline()
    config = prepare_config(config, workdir, mesh.size if mesh else jax.device_count())
    with Lock(workdir) as lock:
        run, start = prepare_run(config, workdir, mesh or make_mesh(config.mesh), lock, timeline, recipe)
        timeline.add("start", time.monotonic() - started)
        memory = ExplainMemory(run.experiment)
        with memory, timeline.span("recovery" if start.saved else "start", "the first state"):
            state = restore_or_initialise(run.experiment, workdir, start)
        print_banner(run, state)
        if start.step == run.experiment.total_steps:
            return _finish(run, state)

        with timeline.span("compile", "the compilation"):
            step_function = compile_step(run.experiment, announce=is_primary_process())
        if dry_run:
            perform_dry_run(run, step_function, state)
            return Outcome(start.step, finished=False)
        hooks = [*hooks, *(HOOKS[name]() for name in run.experiment.config.train.hooks)]
        ledger, skipped_steps = Ledger(workdir, timeline, started), set[int]()
        while True:
            try:
                return _take_steps(run, start, state, step_function, hooks, ledger, skipped_steps)
            except Rollback as rollback:
                skipped_steps.add(rollback.step)
            with timeline.span("recovery", "the rollback to the last checkpoint"):
                start = newest(workdir)
                run, state = run.at(start.step), restore_or_initialise(run.experiment, workdir, start)
            if is_primary_process():
                say(f"resuming from step {start.step}")


def _finish(run: Run, state: TrainState) -> Outcome:
    """Completes a run without steps left: makes the evaluation or the report if it was interrupted."""
    step, final_results = int(state.step), None
    if not results.are_there(run):
        with LoggingHook(run) as logging:
            final_results = results.show(run, state, logging)
    if is_primary_process():
        say(
            f"This run is finished: {step} steps are done."
            + (f" Its results are in {run.workdir}/evaluation." if run.evaluator else "")
            + " To train longer, increase --config.train.steps if the learning rate schedule allows it, or start "
            f"another run from its weights: --config.init_from={run.workdir} --workdir=OTHER"
        )
    return Outcome(step, finished=True, results=final_results)


def _take_steps(
    run: Run,
    start: Start,
    state: TrainState,
    step_function: StepFunction,
    more: Sequence[Hook],
    ledger: Ledger,
    skipped_steps: Set[int],
) -> Outcome:
    """Takes all remaining steps from a state, and makes the final evaluation.

    Raises:
      Rollback: the run must resume from its last checkpoint.
    """
    experiment, timeline, memory = run.experiment, run.timeline, ExplainMemory(run.experiment)
    first, last = start.step + 1, experiment.total_steps
    with contextlib.ExitStack() as stack:
        stack.enter_context(Watchdog(timeline, experiment.config.processes.hang_seconds))
        batches = stack.enter_context(contextlib.closing(device_batches(experiment, run.source, start.step, run.tally)))
        with memory, timeline.span("start", "the wait for the first batch"):
            batch = next(batches)
        prepare_workdir(run, start)
        if is_primary_process():
            ledger.begin(start.step)
            stack.enter_context(Heartbeat(run.workdir, timeline, ledger, total_steps=last))
        logging = stack.enter_context(LoggingHook(run))
        try:
            with contextlib.ExitStack() as inner:
                hooks = default_hooks(run, logging, more)
                for hook in hooks:
                    if hook is not logging:
                        inner.enter_context(hook)
                for step in range(first, last + 1):
                    for hook in hooks:
                        hook.before_step(step)
                    step_or_skip = skip_step if step in skipped_steps else step_function
                    with (
                        memory,
                        jax.transfer_guard("disallow"),
                        timeline.span("step", f"step {step}"),
                        jax.profiler.StepTraceAnnotation("train", step_num=step),
                    ):
                        state, metrics = step_or_skip(state, batch)
                    timeline.step = step
                    info = StepInfo(step, first, last, state, metrics)
                    for hook in hooks:
                        with timeline.span(hook.cause, f"{type(hook).__name__} after step {step}"):
                            hook.after_step(info)
                    if step < last:
                        with timeline.span("input", f"the wait for the batch of step {step + 1}"):
                            batch = next(batches)
                batches.close()  # stops the decoding workers before the evaluation
        except Interrupted as interrupted:
            return Outcome(interrupted.step, finished=False, signal_number=interrupted.signal_number)
        with timeline.span("evaluation", "the evaluation at the end"):
            final_results = results.show(run, state, logging)
    return Outcome(last, finished=True, results=final_results)
