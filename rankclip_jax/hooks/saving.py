"""Saves a checkpoint every so many steps and at the end, and never one of a run that has diverged."""

import math

from input_pipeline.errors import UserError
from rankclip_jax.checkpoints import Checkpoints
from rankclip_jax.train_state import Metrics, TrainState


class Saving:
    """Every ``every_steps`` steps and at the last."""

    def __init__(self, checkpoints: Checkpoints, *, every_steps: int, total_steps: int) -> None:
        self._checkpoints = checkpoints
        self._every_steps, self._total_steps = every_steps, total_steps

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        if step % self._every_steps == 0 or step == self._total_steps:
            self.save(step, state, metrics)

    def save(self, step: int, state: TrainState, metrics: Metrics) -> None:
        """Saves the state after ``step``.

        Raises:
          UserError: the loss or the gradients are no longer finite; the checkpoints before stay.
        """
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(metrics[name]):
                raise UserError(
                    f"the {name} is {float(metrics[name])} at step {step}: the run has diverged and is not saved. The "
                    f"last good checkpoint is of step {self._checkpoints.latest_step()}. Try a new run with a lower "
                    "--config.optimizer.learning_rate, or with --config.optimizer.gradient_clip=1.0."
                )
        self._checkpoints.save(state)

    def close(self) -> None:
        self._checkpoints.close()
