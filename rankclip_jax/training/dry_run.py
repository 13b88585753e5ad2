"""Everything that a training does but the training, once: what can fail does so before the hours are paid for."""

import contextlib
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp

from rankclip_jax.checkpoints.manager import Checkpoints, SavingFailed, faults_of, read_state
from rankclip_jax.checkpoints.workdir import write_config
from rankclip_jax.cli.console import format_duration, say
from rankclip_jax.distributed.processes import is_primary_process, wait_for_all
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import nearest_folder
from rankclip_jax.input_pipeline.object_stores import is_remote, remove_folder
from rankclip_jax.training.batches import device_batches
from rankclip_jax.training.compilation import ExplainMemory
from rankclip_jax.training.experiment import Experiment
from rankclip_jax.training.run import Run
from rankclip_jax.training.state import TrainState, abstract_state
from rankclip_jax.training.step import StepFunction

_FOLDER = "dry_run"


def perform_dry_run(run: Run, step_function: StepFunction, state: TrainState) -> None:
    """Makes one step of a batch, writes a checkpoint, verifies it and reads it; nothing stays.

    Args:
      run: the run; the checkpoint is written where its folder is or would be.
      step_function: compiled.
      state: to start from; its buffers are reused.

    Raises:
      UserError: a batch, a step or a checkpoint cannot be made.
    """
    experiment, workdir = run.experiment, run.workdir
    start = time.perf_counter()
    with contextlib.closing(device_batches(experiment, run.source, int(state.step), run.tally)) as batches:
        batch = next(batches)
    ready = time.perf_counter()
    with ExplainMemory(experiment):
        state, metrics = step_function(state, batch)
        loss, step = float(metrics["loss"]), int(state.step)
    if not metrics["finite"]:
        raise UserError(f"the loss of step {step} is {loss}, or its gradients are not finite.")
    made = time.perf_counter()
    there = workdir if is_remote(workdir) else nearest_folder(workdir)
    with _temporary(there / _FOLDER) as folder:
        _write(experiment, folder, state)
        faults = faults_of(folder, step)
        written = jax.device_get(_sums_of_bits(state))
        del state  # two may not fit
        read = jax.device_get(_sums_of_bits(read_state(folder, abstract_state(experiment), step)))
    if faults or written != read:
        raise UserError(f"--workdir: in {there} files are not read as they are written. {' '.join(faults)}")
    if is_primary_process():
        moments = (start, ready, made, time.perf_counter())
        times = [format_duration(after - before) for before, after in itertools.pairwise(moments)]
        say(
            f"dry run: a batch was made in {times[0]}, step {step} of it in {times[1]} with a loss of {loss:.4f}; a "
            f"checkpoint was written, verified and read in {times[2]}. Nothing of it is kept."
        )


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """A folder that all processes know, and that is gone afterwards."""
    if is_primary_process() and folder.exists():
        raise UserError(f"{folder} is there, of a dry run that was killed. Remove it, and give the command again.")
    try:
        yield folder
    finally:
        wait_for_all(_FOLDER)
        if is_primary_process():
            remove_folder(folder)


def _write(experiment: Experiment, folder: Path, state: TrainState) -> None:
    write_config(folder, experiment.config)
    checkpoints = Checkpoints(folder, experiment.config, abstract_state(experiment))
    try:
        checkpoints.save(state)
        checkpoints.close()
    except SavingFailed as failed:
        raise UserError(f"--workdir: {failed}. Make room, or name another folder.") from failed


@jax.jit
def _sums_of_bits(state: TrainState) -> list[jax.Array]:
    """Of each array: the sum of its bits, taken as whole numbers."""
    return [jnp.sum(x.view(f"uint{8 * x.dtype.itemsize}"), dtype=jnp.uint32) for x in jax.tree.leaves(state)]
