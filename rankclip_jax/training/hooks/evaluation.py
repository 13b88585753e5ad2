"""Evaluates during training, writes the results and adds them to the logs."""

import contextlib
from collections.abc import Callable

from rankclip_jax.training.hooks import StepInfo


class Evaluation(contextlib.nullcontext):
    """Every ``every_steps`` steps, but not at the last: that is the run's own end."""

    def __init__(self, evaluate: Callable[[StepInfo], None], *, every_steps: int) -> None:
        super().__init__()
        self._evaluate, self._every_steps = evaluate, every_steps

    def __call__(self, info: StepInfo) -> None:
        """Evaluates if the step is due."""
        if self._every_steps and info.step % self._every_steps == 0 and info.step != info.last_step:
            self._evaluate(info)
