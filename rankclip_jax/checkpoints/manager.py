"""Checkpoints of a run: Orbax, asynchronous and atomic, proven by digests, the newest few kept."""

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
# Seconds. Orbax counts those of a save by the time of day, which may be set meanwhile; what hangs or is gone, the
# watchdog and the processes' heartbeats notice.
_PATIENCE = 30 * 24 * 3600


class SavingFailed(Exception):
    """A checkpoint could not be written; those before it are as they were."""


class Checkpoints:
    """The folder ``checkpoints/<step>/`` of a workdir.

    Args:
      workdir: the run's folder.
      config: the run's settings.
      abstract_state: the shapes, types and layout of what is saved.
      always_kept: steps whose checkpoints stay whatever comes after.
    """

    def __init__(self, workdir: Path, config: ConfigDict, abstract_state: Any, always_kept: Sequence[int] = ()) -> None:
        keep, every = config.checkpoint.keep, config.checkpoint.keep_every_steps
        policies = [preservation_policy.LatestN(keep), preservation_policy.CustomSteps(list(always_kept))]
        if every:
            policies.append(preservation_policy.EveryNSteps(every))
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
            enable_async_checkpointing=True,
            async_options=ocp.AsyncOptions(timeout_secs=_PATIENCE, post_finalization_callback=self._prove),
        )
        self._folder = object_stores.absolute(workdir / "checkpoints")
        self._settings = schema.to_dict(config)
        self._manager = self._open()
        self._under_way: int | None = None
        self._are_finite = jax.jit(_are_finite).lower(abstract_state).compile()

    def _open(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(self._folder, options=self._options)

    def reopen(self) -> None:
        """Looks again at what is in the folder, which somebody has changed; all processes do so together."""
        self._manager = self._open()

    def latest_step(self) -> int | None:
        """The newest complete checkpoint; None: there is none."""
        return self._manager.latest_step()

    def save(self, state: Any) -> None:
        """Starts saving in the background; the state may be donated as soon as this returns.

        Raises:
          UserError: a value of the state is not finite, so it is not saved.
          SavingFailed: it, or the one before that was under way, cannot be written.
        """
        step = int(state.step)
        if step == self._manager.latest_step():
            return
        if bad := [name for name, finite in jax.device_get(self._are_finite(state)).items() if not finite]:
            raise UserError(
                f"{', '.join(bad[:3])}{' and others' if len(bad) > 3 else ''} hold values that are not finite at step "
                f"{step}, which is not saved. {self.kept()}"
            )
        self.wait()  # one at a time is written
        self._under_way = step
        with self._explained():
            self._manager.save(step, args=ocp.args.StandardSave(state))

    def check(self) -> None:
        """Raises `SavingFailed` if what was started has failed meanwhile."""
        if not self._manager.is_saving_in_progress():
            self.wait()  # returns at once, and is alone to know of every failure

    def wait(self) -> None:
        """Waits until what was started is safe on disk; raises `SavingFailed` where it cannot be."""
        with self._explained():
            self._manager.wait_until_finished()
            self._finalize()

    def _finalize(self) -> None:
        """The digests are of all files now; without this the checkpoint is whole too."""
        step, self._under_way = self._under_way, None
        if is_primary_process() and step is not None:
            checksums.finalize(self._folder / str(step))

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """What Orbax and those below it raise on full disks becomes `SavingFailed`; the torso is removed."""
        try:
            yield
        except Exception as error:  # of many kinds, some of them TensorStore's own
            step, self._under_way = self._under_way, None
            with contextlib.suppress(Exception):  # the disk, or the store, may refuse this too
                torso = None if step is None else self._unfinished(step)
                if torso is not None and not (torso / "commit_success.txt").exists():
                    object_stores.remove_folder(torso)
            # Several would have to open it together, and not all know of this; where the run's folder is gone, opening
            # would make it anew without what belongs there.
            if jax.process_count() == 1 and self._folder.parent.exists():
                self._manager = self._open()
            words = " ".join(str(error).split())
            words = words if len(words) < 300 else f"{words[:100]} ... {words[-180:]}"
            raise SavingFailed(
                f"the checkpoint of step {step} in {self._folder} cannot be written ({type(error).__name__}: {words})"
            ) from error

    def kept(self) -> str:
        """What there is to go back to, as a sentence."""
        good = self.latest_step()
        return "There is no checkpoint yet." if good is None else f"The last good checkpoint is of step {good}."

    def close(self) -> None:
        """Waits until what was started is safe on disk.

        Raises:
          SavingFailed: it cannot be.
        """
        self.wait()
        self._manager.close()

    def _prove(self) -> None:
        """Called by Orbax when all files of a checkpoint are there, before it takes its name."""
        if is_primary_process():
            assert self._under_way is not None
            folder = self._unfinished(self._under_way)
            assert folder is not None
            checksums.write(folder, self._under_way, self._settings)

    def _unfinished(self, step: int) -> Path | None:
        """The folder of a checkpoint that is not committed: under another name, or, in a store, without a last file."""
        own = self._folder / str(step)
        return own if object_stores.is_remote(own) else next(self._folder.glob(f"{step}.*tmp*"), None)


def _are_finite(state: Any) -> dict[str, jax.Array]:
    """For each array of numbers, by name, whether all of its values are finite."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {name_of(path): jnp.isfinite(x).all() for path, x in leaves if jnp.issubdtype(x.dtype, jnp.inexact)}


def faults_of(workdir: Path, step: int) -> list[str]:
    """Why the checkpoint of a step is not one that this run saved, a line each; none: it is whole.

    Raises:
      UserError: the folder is not a run's.
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
        return [f"{folder / checksums.ABOUT} is of step {about['step']}"]
    lines = comparison.differences(about["settings"], read_config(workdir))
    return [f"{folder / checksums.ABOUT} is of another run: {printable('; '.join(lines), 1000)}"] if lines else []


def faults_of_name(workdir: Path, name: str) -> list[str]:
    """Why a folder with a name that no checkpoint has is none."""
    path = printable(workdir / "checkpoints" / name)
    return [f"{path} is not named as a checkpoint is, by its step alone. Remove it, or move it elsewhere"]


def describe_proof(workdir: Path, step: int) -> str:
    """What was found of a whole checkpoint, in a few words."""
    folder = workdir / "checkpoints" / str(step)
    by, size = checksums.about(folder)["versions"], bytes_of(workdir, step)
    versions = printable(f"rankclip_jax {by['rankclip_jax']}, jax {by['jax']}")
    return f"whole, {size / 2**20:,.1f} MiB, saved by {versions}"


def bytes_of(workdir: Path, step: int) -> int:
    """What the files of a checkpoint occupy."""
    return sum(object_stores.sizes_below(workdir / "checkpoints" / str(step)).values())


def choose_whole(workdir: Path, choose: Callable[[Sequence[int]], int] = max) -> tuple[int, list[str]]:
    """The step of a whole checkpoint, and the names of those that are not; all processes agree. Says what is at fault.

    Args:
      workdir: the run's folder.
      choose: which of several steps is best.

    Raises:
      UserError: none is whole, or usable.
    """
    left, broken = saved_steps(workdir), misnamed(workdir)
    for fault in (fault for name in broken if is_primary_process() for fault in faults_of_name(workdir, name)):
        _LOGGER.warning("not used: %s", fault)
    while left:
        step = choose(left)
        faults = faults_of(workdir, step) if is_primary_process() else []
        if not max_across_processes(len(faults)):
            return step, broken
        for fault in faults:
            _LOGGER.warning("the checkpoint of step %d is not used: %s", step, fault)
        left.remove(step)
        broken.append(str(step))
    raise UserError(
        f"--workdir: no checkpoint in {workdir} is whole; what is wrong with each stands above. Restore one, or name "
        "another --workdir to begin anew."
    )


def read_state(workdir: Path, like: Any, step: int) -> Any:
    """The state of a saved step, of the shapes, types and layout of ``like``; nothing is written."""
    return _read(workdir, like, step)


def read_variables(
    workdir: Path, layout: Layout, like: Variables, step: int | None = None, weights: str = "latest"
) -> Variables:
    """The weights of a checkpoint alone, without the optimiser's state; nothing is written.

    Args:
      workdir: the run's folder.
      layout: how they lie on the devices that they are wanted on.
      like: their shapes and types; parameters that are not named are not read.
      step: which checkpoint; None: the newest.
      weights: ``"latest"``, or ``"ema"`` for the moving average.

    Raises:
      UserError: there is no such checkpoint, or the run keeps no average.
    """
    step = choose_step(workdir, step)
    name = {"latest": "parameters", "ema": "ema"}[weights]
    optimizer, parameters = read_config(workdir)["optimizer"], like["params"]
    if optimizer["lora"]:
        draw = functools.partial(lora.init, ranks=optimizer["lora"], key=jax.random.key(0))
        parameters = {**parameters, lora.LORA: jax.eval_shape(draw, parameters)}
    wanted = layout.describe({name: parameters, "batch_statistics": like.get("batch_stats", {})})
    if weights == "ema" and not optimizer["ema_decay"]:
        raise UserError(
            f"{workdir} keeps no average of its weights (config.optimizer.ema_decay). Use --weights=latest."
        )
    restored = _read(workdir, wanted, step)
    return join(restored[name], restored["batch_statistics"])


def _read(workdir: Path, like: Any, step: int) -> Any:
    path = object_stores.absolute(workdir / "checkpoints" / str(step) / "default")
    restore_args = ocp.checkpoint_utils.construct_restore_args(like)
    arguments = ocp.args.PyTreeRestore(like, restore_args=restore_args, partial_restore=True)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        try:
            return checkpointer.restore(path, args=arguments)
        except (ValueError, KeyError, TypeError, OSError) as error:  # what Orbax and its readers raise on damaged files
            words = " ".join(str(error).split())[:300]
            raise UserError(
                f"--workdir: the checkpoint of step {step} in {workdir} cannot be read "
                f"({type(error).__name__}: {words}). Move {path.parent} away to use the one before."
            ) from error


def choose_step(workdir: Path, step: int | None) -> int:
    """The step asked for, or the newest that has a whole checkpoint.

    Raises:
      UserError: it has none, or the one asked for is not whole.
    """
    steps = saved_steps(workdir)
    if not steps and not misnamed(workdir):
        raise UserError(f"--workdir: {workdir} has no checkpoint yet.")
    if step is None:
        return choose_whole(workdir)[0]
    if step not in steps:
        raise UserError(f"--step: no checkpoint of step {step} in {workdir}; choose from {steps}.")
    if faults := faults_of(workdir, step):
        raise UserError(f"--step: the checkpoint of step {step} is not what was saved: {'; '.join(faults[:3])}.")
    return step


def set_aside(workdir: Path, names: Sequence[str]) -> Path:
    """Moves the checkpoints of these names out of the way, by one process; the others wait. Where they are now."""
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
