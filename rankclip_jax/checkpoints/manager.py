"""Checkpoints of a run: saved asynchronously and atomically with Orbax, verified by digests."""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint.checkpoint_managers import preservation_policy

from rankclip_jax.checkpoints import checksums
from rankclip_jax.checkpoints.workdir import misnamed, read_config, saved_steps
from rankclip_jax.distributed.processes import is_primary_process, max_across_processes, wait_for_all
from rankclip_jax.distributed.sharding import Layout, name_of
from rankclip_jax.input_pipeline import object_stores
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import printable
from rankclip_jax.models import lora
from rankclip_jax.models.clip import Variables, join
from rankclip_jax.settings import comparison, schema

_LOGGER = logging.getLogger(__name__)
# Seconds. Orbax measures a save's timeout by the wall clock, which may jump, so this one is very long; the watchdog and
# the processes' heartbeats detect hangs and lost processes.
_TIMEOUT = 30 * 24 * 3600


class SavingFailed(Exception):
    """A checkpoint could not be written; earlier checkpoints are unchanged."""


class Checkpoints:
    """Saves checkpoints to ``checkpoints/<step>/`` in a workdir.

    Args:
      workdir: the run's folder.
      config: the run's settings.
      abstract_state: the shapes, dtypes and shardings of the state.
      always_kept: steps whose checkpoints are never deleted.
    """

    def __init__(self, workdir: Path, config: ConfigDict, abstract_state: Any, always_kept: Sequence[int] = ()) -> None:
        keep, every = config.checkpoint.keep, config.checkpoint.keep_every_steps
        policies = [preservation_policy.LatestN(keep), preservation_policy.CustomSteps(list(always_kept))]
        if every:
            policies.append(preservation_policy.EveryNSteps(every))
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
            enable_async_checkpointing=True,
            async_options=ocp.AsyncOptions(timeout_secs=_TIMEOUT, post_finalization_callback=self._write_checksums),
        )
        self._folder = object_stores.absolute(workdir / "checkpoints")
        self._settings = schema.to_dict(config)
        self._manager = self._open()
        self._saving_step: int | None = None
        self._are_finite = jax.jit(_are_finite).lower(abstract_state).compile()

    def _open(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(self._folder, options=self._options)

    def reopen(self) -> None:
        """Rereads the folder after an external change; all processes call this together."""
        self._manager = self._open()

    def latest_step(self) -> int | None:
        """Returns the step of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, state: Any) -> None:
        """Starts saving in the background; the state may be donated as soon as this returns.

        Raises:
          UserError: a value of the state is not finite, so it is not saved.
          SavingFailed: this checkpoint, or the previous one in progress, cannot be written.
        """
        step = int(state.step)
        if step == self._manager.latest_step():
            return
        if bad := [name for name, finite in jax.device_get(self._are_finite(state)).items() if not finite]:
            raise UserError(
                f"{', '.join(bad[:3])}{' and others' if len(bad) > 3 else ''} hold non-finite values at step {step}, "
                f"so the step is not saved. {self.kept()}"
            )
        self.wait()  # only one save at a time
        self._saving_step = step
        with self._explained():
            self._manager.save(step, args=ocp.args.StandardSave(state))

    def check(self) -> None:
        """Raises `SavingFailed` if the save in progress has failed."""
        if not self._manager.is_saving_in_progress():
            self.wait()  # returns at once; only this reports every failure

    def wait(self) -> None:
        """Waits until the save in progress is complete; raises `SavingFailed` if it fails."""
        with self._explained():
            self._manager.wait_until_finished()
            self._finalize()

    def _finalize(self) -> None:
        """Adds the digests of the commit's files; the checkpoint is valid without them too."""
        step, self._saving_step = self._saving_step, None
        if is_primary_process() and step is not None:
            checksums.finalize(self._folder / str(step))

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns errors of Orbax and its libraries into `SavingFailed`, and removes the partial checkpoint."""
        try:
            yield
        except Exception as error:  # of many types, some of them TensorStore's own
            step, self._saving_step = self._saving_step, None
            with contextlib.suppress(Exception):  # the disk, or the store, may refuse this too
                partial = None if step is None else self._unfinished(step)
                if partial is not None and not (partial / "commit_success.txt").exists():
                    object_stores.remove_folder(partial)
            # Several processes would have to reopen together, and not all know of the failure. If the run's folder is
            # gone, reopening would create it again without its other files.
            if jax.process_count() == 1 and self._folder.parent.exists():
                self._manager = self._open()
            words = " ".join(str(error).split())
            words = words if len(words) < 300 else f"{words[:100]} ... {words[-180:]}"
            raise SavingFailed(
                f"the checkpoint of step {step} in {self._folder} cannot be written ({type(error).__name__}: {words})"
            ) from error

    def kept(self) -> str:
        """Returns a sentence about the newest checkpoint."""
        step = self.latest_step()
        return "There is no checkpoint yet." if step is None else f"The last good checkpoint is of step {step}."

    def close(self) -> None:
        """Waits until the save in progress is complete, and closes the manager.

        Raises:
          SavingFailed: the save failed.
        """
        self.wait()
        self._manager.close()

    def _write_checksums(self) -> None:
        """Called by Orbax when all files of a checkpoint are written, before it commits."""
        if is_primary_process():
            assert self._saving_step is not None
            folder = self._unfinished(self._saving_step)
            assert folder is not None
            checksums.write(folder, self._saving_step, self._settings)

    def _unfinished(self, step: int) -> Path | None:
        """Returns the folder of an uncommitted checkpoint; in an object store it already has its final name."""
        final = self._folder / str(step)
        return final if object_stores.is_remote(final) else next(self._folder.glob(f"{step}.*tmp*"), None)


def _are_finite(state: Any) -> dict[str, jax.Array]:
    """Returns, for each floating-point array by name, whether all of its values are finite."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {name_of(path): jnp.isfinite(x).all() for path, x in leaves if jnp.issubdtype(x.dtype, jnp.inexact)}


def faults_of(workdir: Path, step: int) -> list[str]:
    """Returns the faults of a checkpoint, a line each; an empty list if it is intact and of this run.

    Raises:
      UserError: the folder is not a workdir.
    """
    folder = workdir / "checkpoints" / str(step)
    if faults := list(checksums.faults(folder)):
        return faults
    try:
        about = checksums.about(folder)
    except OSError as error:
        return [f"{folder / checksums.ABOUT} cannot be read ({error.strerror})"]
    except UserError as error:
        return [str(error)]
    if about["step"] != step:
        return [f"{folder / checksums.ABOUT}: expected step {step}; found step {about['step']}"]
    lines = comparison.differences(about["settings"], read_config(workdir))
    return [f"{folder / checksums.ABOUT} belongs to another run: {printable('; '.join(lines), 1000)}"] if lines else []


def faults_of_name(workdir: Path, name: str) -> list[str]:
    """Returns the fault of a misnamed folder among the checkpoints."""
    path = printable(workdir / "checkpoints" / name)
    return [f"{path}: expected a step number as the folder's name. Remove it, or move it elsewhere"]


def describe_checkpoint(workdir: Path, step: int) -> str:
    """Returns a short description of an intact checkpoint: its size and the versions that saved it."""
    folder = workdir / "checkpoints" / str(step)
    saved_by, size = checksums.about(folder)["versions"], bytes_of(workdir, step)
    versions = printable(f"rankclip_jax {saved_by['rankclip_jax']}, jax {saved_by['jax']}")
    return f"intact, {size / 2**20:,.1f} MiB, saved by {versions}"


def bytes_of(workdir: Path, step: int) -> int:
    """Returns the total size of a checkpoint's files in bytes."""
    return sum(object_stores.sizes_below(workdir / "checkpoints" / str(step)).values())


def choose_whole(workdir: Path, choose: Callable[[Sequence[int]], int] = max) -> tuple[int, list[str]]:
    """Returns the step of an intact checkpoint, and the names of corrupt ones; the same on all processes.

    Logs a warning for each fault.

    Args:
      workdir: the run's folder.
      choose: picks one of several steps.

    Raises:
      UserError: no checkpoint is intact.
    """
    remaining, corrupt = saved_steps(workdir), misnamed(workdir)
    for fault in (fault for name in corrupt if is_primary_process() for fault in faults_of_name(workdir, name)):
        _LOGGER.warning("a checkpoint is not used: %s", fault)
    while remaining:
        step = choose(remaining)
        faults = faults_of(workdir, step) if is_primary_process() else []
        if not max_across_processes(len(faults)):
            return step, corrupt
        for fault in faults:
            _LOGGER.warning("the checkpoint of step %d is corrupt and not used: %s", step, fault)
        remaining.remove(step)
        corrupt.append(str(step))
    raise UserError(
        f"--workdir: no checkpoint in {workdir} is intact; the warnings above list the faults. Restore one, or use "
        "another --workdir to start a new run."
    )


def read_state(workdir: Path, like: Any, step: int) -> Any:
    """Restores the state of a step with the shapes, dtypes and shardings of ``like``; writes nothing."""
    return _read(workdir, like, step)


def read_variables(
    workdir: Path, layout: Layout, like: Variables, step: int | None = None, weights: str = "latest"
) -> Variables:
    """Restores only the weights of a checkpoint, without the optimizer state; writes nothing.

    Args:
      workdir: the run's folder.
      layout: the sharding of the restored weights.
      like: their shapes and dtypes; parameters that it lacks are not read.
      step: the step of the checkpoint; None: the newest.
      weights: ``"latest"`` or ``"ema"``.

    Raises:
      UserError: the checkpoint does not exist, or the run keeps no EMA.
    """
    step = choose_step(workdir, step)
    name = {"latest": "parameters", "ema": "ema"}[weights]
    optimizer, parameters = read_config(workdir)["optimizer"], like["params"]
    if optimizer["lora"]:
        draw = functools.partial(lora.init, ranks=optimizer["lora"], key=jax.random.key(0))
        parameters = {**parameters, lora.LORA: jax.eval_shape(draw, parameters)}
    wanted = layout.describe({name: parameters, "batch_statistics": like.get("batch_stats", {})})
    if weights == "ema" and not optimizer["ema_decay"]:
        raise UserError(f"{workdir} keeps no EMA of its weights (config.optimizer.ema_decay). Use --weights=latest.")
    restored = _read(workdir, wanted, step)
    return join(restored[name], restored["batch_statistics"])


def _read(workdir: Path, like: Any, step: int) -> Any:
    path = object_stores.absolute(workdir / "checkpoints" / str(step) / "default")
    restore_args = ocp.checkpoint_utils.construct_restore_args(like)
    arguments = ocp.args.PyTreeRestore(like, restore_args=restore_args, partial_restore=True)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        try:
            return checkpointer.restore(path, args=arguments)
        except (ValueError, KeyError, TypeError, OSError) as error:  # raised by Orbax and its readers on corrupt files
            words = " ".join(str(error).split())[:300]
            raise UserError(
                f"--workdir: the checkpoint of step {step} in {workdir} cannot be read "
                f"({type(error).__name__}: {words}). Move {path.parent} elsewhere to use the previous checkpoint."
            ) from error


def choose_step(workdir: Path, step: int | None) -> int:
    """Returns ``step`` after verifying its checkpoint, or for None the newest step with an intact checkpoint.

    Raises:
      UserError: there is no intact checkpoint, or that of ``step`` is missing or corrupt.
    """
    steps = saved_steps(workdir)
    if not steps and not misnamed(workdir):
        raise UserError(f"--workdir: {workdir} has no checkpoint yet.")
    if step is None:
        return choose_whole(workdir)[0]
    if step not in steps:
        raise UserError(f"--step: no checkpoint of step {step} in {workdir}; choose from {steps}.")
    if faults := faults_of(workdir, step):
        raise UserError(
            f"--step: the checkpoint of step {step} is corrupt: {'; '.join(faults[:3])}. Run rankclip_jax.verify "
            "to list the intact checkpoints."
        )
    return step


def set_aside(workdir: Path, names: Sequence[str]) -> Path:
    """Moves checkpoints to a new ``set_aside`` folder, and returns it; one process moves them, the others wait."""
    wait_for_all("checkpoints to set aside")
    folder = workdir / "set_aside"
    if is_primary_process():
        number = 1
        while folder.exists():
            number += 1
            folder = workdir / f"set_aside_{number}"
        folder.mkdir()
        for name in names:
            object_stores.move_folder(workdir / "checkpoints" / name, folder / name)
    wait_for_all("checkpoints set aside")
    return folder
