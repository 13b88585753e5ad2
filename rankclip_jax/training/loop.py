"""The story of a run: check, restore or initialise, step, and show what was learned."""

import time
from collections.abc import Sequence
from pathlib import Path

from jax.sharding import Mesh
from ml_collections import ConfigDict

from rankclip_jax.checkpoints.lock import Lock
from rankclip_jax.distributed.processes import is_primary_process
from rankclip_jax.input_pipeline.object_stores import path_of
from rankclip_jax.monitoring.goodput import Ledger
from rankclip_jax.monitoring.timeline import Timeline
from rankclip_jax.training import results
from rankclip_jax.training.attempt import take_steps
from rankclip_jax.training.banner import print_banner
from rankclip_jax.training.compilation import ExplainMemory, compile_step
from rankclip_jax.training.dry_run import perform_dry_run
from rankclip_jax.training.hooks import HOOKS, Hook
from rankclip_jax.training.hooks.nonfinite import Rollback
from rankclip_jax.training.preparation import prepare_config, prepare_run
from rankclip_jax.training.resumption import restore_or_initialise, roll_back
from rankclip_jax.training.run import Outcome


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
    """Trains the recipe in ``workdir``, or resumes the run that it holds.

    Args:
      config: the settings.
      workdir: the run's folder; made when the step is compiled and the first batch is there.
      hooks: called before and after each step, beside those of every run.
      mesh: the devices; None: all.
      dry_run: do everything once, keep nothing of it, and stop.
      started: when the process began, by `time.monotonic`, for the ledger of its time; None: now.
      recipe: the file that the settings are from, of which the workdir gets a copy; None: there is none.

    Raises:
      UserError: the settings, the data or the folder are not usable, or the step is out of memory: nothing has been
        written. Or the run has diverged, or too many records cannot be read: what was saved before stays.
    """
    started = time.monotonic() if started is None else started
    workdir, timeline = path_of(str(workdir)), Timeline()
    config = prepare_config(config, workdir, mesh)
    with Lock(workdir) as lock:
        run, start = prepare_run(config, workdir, mesh, lock, timeline, recipe)
        timeline.add("start", time.monotonic() - started)
        with ExplainMemory(run.experiment), timeline.span("recovery" if start.saved else "start", "the first state"):
            state = restore_or_initialise(run.experiment, workdir, start)
        print_banner(run, state)
        if start.step == run.experiment.total_steps:
            return results.finish(run, state)

        with timeline.span("compile", "the compilation"):
            step_function = compile_step(run.experiment, announce=is_primary_process())
        if dry_run:
            perform_dry_run(run, step_function, state)
            return Outcome(start.step, finished=False)
        hooks = [*hooks, *(HOOKS[name]() for name in run.experiment.config.train.hooks)]
        ledger, skipped_steps = Ledger(workdir, timeline, started), set[int]()
        while True:
            try:
                return take_steps(run, start, state, step_function, hooks, ledger, skipped_steps)
            except Rollback as back:
                skipped_steps.add(back.step)
            run, start, state = roll_back(run)
