"""Saves a checkpoint every so many steps and at the end."""

import contextlib

from rankclip_jax.hooks import StepInfo
from rankclip_jax.run.checkpoints import Checkpoints


class Saving(contextlib.ExitStack):
    """Every ``every_steps`` steps, at the last, and at any of ``also_at``."""

    def __init__(self, checkpoints: Checkpoints, *, every_steps: int, also_at: int) -> None:
        super().__init__()
        self._checkpoints, self._every_steps, self._also_at = checkpoints, every_steps, also_at
        self.callback(checkpoints.close)

    def __call__(self, info: StepInfo) -> None:
        """Saves if the step is due."""
        if info.is_due(self._every_steps) or info.step == self._also_at:
            self.save(info)

    def save(self, info: StepInfo) -> None:
        """Saves whatever the number of the step."""
        self._checkpoints.save(info.state)
