"""One attempt at a run: the steps from a state to the end, a signal, or a rollback."""

import contextlib
from collections.abc import Sequence, Set

import jax

from rankclip_jax.distributed.processes import is_primary_process
from rankclip_jax.monitoring.goodput import Ledger
from rankclip_jax.monitoring.heartbeat import Heartbeat
from rankclip_jax.monitoring.watchdog import Watchdog
from rankclip_jax.training import results
from rankclip_jax.training.batches import device_batches
from rankclip_jax.training.compilation import ExplainMemory
from rankclip_jax.training.default_hooks import default_hooks
from rankclip_jax.training.hooks import Hook, StepInfo
from rankclip_jax.training.hooks.interruption import Interrupted
from rankclip_jax.training.hooks.logging import LoggingHook
from rankclip_jax.training.preparation import prepare_workdir
from rankclip_jax.training.resumption import Start
from rankclip_jax.training.run import Outcome, Run
from rankclip_jax.training.state import TrainState
from rankclip_jax.training.step import StepFunction, skip_step


def take_steps(
    run: Run,
    start: Start,
    state: TrainState,
    step_function: StepFunction,
    more: Sequence[Hook],
    ledger: Ledger,
    skipped_steps: Set[int],
) -> Outcome:
    """Takes the steps from a state to the end of the run, and evaluates there.

    Args:
      run: the run.
      start: where it starts or resumes.
      state: at that step.
      step_function: the compiled step.
      more: the user's hooks.
      ledger: of the run's time.
      skipped_steps: steps that leave out their batch.

    Raises:
      Rollback: the run is to resume from its last checkpoint.
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
