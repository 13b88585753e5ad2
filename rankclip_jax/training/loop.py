"""The training loop: check the settings, restore or initialise the state, take the steps, and evaluate."""

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
