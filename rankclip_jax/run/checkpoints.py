"""Checkpoints of a run: Orbax, asynchronous and atomic, the newest few kept."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

from input_pipeline.errors import UserError
from rankclip_jax.models.clip import Variables
from rankclip_jax.parallel.processes import is_first, wait_for_all
from rankclip_jax.run.assembly import Assembly
from rankclip_jax.run.state import TrainState, join
from rankclip_jax.run.workdir import read_config, saved_steps


class Checkpoints:
    """The folder ``checkpoints/<step>/`` of a workdir.

    Args:
      workdir: the run's folder.
      keep: how many of the newest stay.
      always_kept: steps whose checkpoints stay whatever comes after.
    """

    def __init__(self, workdir: Path, keep: int = 1, always_kept: Sequence[int] = ()) -> None:
        policy = preservation_policy.AnyPreservationPolicy(
            [preservation_policy.LatestN(keep), preservation_policy.CustomSteps(list(always_kept))]
        )
        options = ocp.CheckpointManagerOptions(preservation_policy=policy, enable_async_checkpointing=True)
        self._folder = (workdir / "checkpoints").absolute()
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def latest_step(self) -> int | None:
        """The newest complete checkpoint; None: there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Starts saving in the background; the state may be donated as soon as this returns."""
        step = int(state.step)
        if step != self._manager.latest_step():
            self._manager.save(step, args=ocp.args.StandardSave(state))

    def close(self) -> None:
        """Waits until what was started is safe on disk."""
        self._manager.close()


def read_state(workdir: Path, like: TrainState, step: int) -> TrainState:
    """The state of a saved step, laid out as ``like`` says (see `state.describe`); nothing is written.

    Parts that are empty, such as the average where none is kept, need not be in the file: versions before had fewer.
    """
    return _read(workdir, like, step)


def read_variables(workdir: Path, assembly: Assembly, step: int | None = None, weights: str = "latest") -> Variables:
    """The weights of a checkpoint alone, as the layout says, without the optimiser's state; nothing is written.

    Args:
      workdir: the run's folder.
      assembly: the parts of the run, on the mesh that the weights are wanted on.
      step: which checkpoint; None: the newest.
      weights: ``"latest"``, or ``"average"`` for the moving average.

    Raises:
      UserError: there is no such checkpoint, or the run keeps no average.
    """
    step = choose_step(workdir, step)
    like = assembly.describe_variables()
    name = {"latest": "parameters", "average": "average"}[weights]
    wanted = assembly.layout.describe({name: like["params"], "batch_statistics": like.get("batch_stats", {})})
    if weights == "average" and not read_config(workdir)["optimizer"]["average"]:
        raise UserError(f"{workdir} keeps no average of its weights (--config.optimizer.average). Take the latest.")
    restored = _read(workdir, wanted, step)
    return join(restored[name], restored["batch_statistics"])


def _read(workdir: Path, like: Any, step: int) -> Any:
    path = (workdir / "checkpoints" / str(step) / "default").absolute()
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
    """The step asked for, or the newest that has a checkpoint.

    Raises:
      UserError: it has none.
    """
    steps = saved_steps(workdir)
    if not steps:
        raise UserError(f"--workdir: {workdir} has no checkpoint yet.")
    if step is not None and step not in steps:
        raise UserError(f"--step: no checkpoint of step {step} in {workdir}; there are {steps}.")
    return steps[-1] if step is None else step


def set_aside(workdir: Path, steps: Sequence[int]) -> Path:
    """Moves the checkpoints of these steps out of the way, by one process; the others wait. Where they are now."""
    wait_for_all("checkpoints to set aside")
    folder = workdir / "set_aside"
    if is_first():
        number = 1
        while folder.exists():
            number += 1
            folder = workdir / f"set_aside_{number}"
        folder.mkdir()
        for step in steps:
            (workdir / "checkpoints" / str(step)).rename(folder / str(step))
    wait_for_all("checkpoints set aside")
    return folder
