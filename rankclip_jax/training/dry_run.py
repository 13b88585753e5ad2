"""The dry run: one batch, one step and one checkpoint, so that failures show before a long run starts."""

import contextlib
import itertools
import math
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
    """Loads a batch, takes one step, and writes, verifies and reads a checkpoint; keeps nothing.

    Args:
      run: the run; the checkpoint is written to a temporary folder inside its folder or the nearest existing one.
      step_function: the compiled step.
      state: the initial state; its buffers are donated.

    Raises:
      UserError: the batch, the step or the checkpoint fails.
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
        raise UserError(
            f"--dry_run: expected a finite loss and finite gradients at step {step}; found the loss {loss}"
            f"{' and gradients that are not finite' if math.isfinite(loss) else ''}. Try "
            "--config.model.dtype=float32, or other weights in config.init_from."
        )
    stepped = time.perf_counter()
    parent = workdir if is_remote(workdir) else nearest_folder(workdir)
    with _temporary(parent / _FOLDER) as folder:
        _write(experiment, folder, state)
        faults = faults_of(folder, step)
        written = jax.device_get(_sums_of_bits(state))
        del state  # two copies may not fit in memory
        read = jax.device_get(_sums_of_bits(read_state(folder, abstract_state(experiment), step)))
    if faults or written != read:
        raise UserError(
            f"--workdir: files in {parent} do not read back as written. {' '.join(faults)} Use a folder on another "
            "file system."
        )
    if is_primary_process():
        moments = (start, ready, stepped, time.perf_counter())
        times = [format_duration(after - before) for before, after in itertools.pairwise(moments)]
        say(
            f"dry run: loaded a batch in {times[0]}; took step {step} in {times[1]}, loss {loss:.4f}; wrote, verified "
            f"and read a checkpoint in {times[2]}. Nothing was kept."
        )


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """A context with a folder that all processes share, and that is removed afterwards."""
    if is_primary_process() and folder.exists():
        raise UserError(f"--workdir: {folder} is left over from a dry run that was killed. Remove it and run again.")
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
        raise UserError(f"--workdir: {failed}. Free disk space, or use another --workdir.") from failed


@jax.jit
def _sums_of_bits(state: TrainState) -> list[jax.Array]:
    """Returns a checksum of each array: the sum of its elements' bits as unsigned integers."""
    return [jnp.sum(x.view(f"uint{8 * x.dtype.itemsize}"), dtype=jnp.uint32) for x in jax.tree.leaves(state)]
