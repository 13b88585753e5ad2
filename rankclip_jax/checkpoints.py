"""Checkpoints of a run: Orbax, asynchronous and atomic, the newest few kept."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from input_pipeline.errors import UserError
from rankclip_jax.models.clip import Clip, Variables, describe_variables
from rankclip_jax.train_state import TrainState, join


class Checkpoints:
    """The folder ``checkpoints/<step>/`` of a workdir."""

    def __init__(self, workdir: Path, keep: int = 1) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
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

    def restore(self, like: TrainState, step: int) -> TrainState:
        """The state of a step, laid out as ``like`` says (see `train_state.describe`).

        Raises:
          UserError: there is no such checkpoint.
        """
        self._check_step(step)
        return self._manager.restore(step, args=ocp.args.StandardRestore(like))

    def restore_variables(self, model: Clip, step: int | None = None) -> Variables:
        """The model's weights alone, on one device, without the optimiser's state.

        Args:
          step: which checkpoint; None: the newest.

        Raises:
          UserError: there is no such checkpoint.
        """
        step = self._check_step(self.latest_step() if step is None else step)
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shapes = describe_variables(model)
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
            {"parameters": shapes["params"], "batch_statistics": shapes.get("batch_stats", {})},
        )
        restored = ocp.PyTreeCheckpointer().restore(
            self._folder / str(step) / "default",
            args=ocp.args.PyTreeRestore(
                like, restore_args=ocp.checkpoint_utils.construct_restore_args(like), partial_restore=True
            ),
        )
        return join(restored["parameters"], restored["batch_statistics"])

    def _check_step(self, step: int | None) -> int:
        steps = sorted(self._manager.all_steps())
        if step is None or step not in steps:
            raise UserError(f"no checkpoint of step {step} in {self._folder}; there are {steps}.")
        return step

    def close(self) -> None:
        """Waits until what was started is safe on disk."""
        self._manager.close()
