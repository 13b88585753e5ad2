"""Hooks: objects that are called before and after each step, and are context managers around the training loop.

To add your own, subclass `Hook`, and pass an instance to ``train(config, workdir, hooks=[...])`` or the class's dotted
path in ``config.train.hooks``.
"""

import dataclasses
from types import TracebackType
from typing import ClassVar, Self

from rankclip_jax.input_pipeline.registry import Registry
from rankclip_jax.objectives import Metrics
from rankclip_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class StepInfo:
    """The result of a step, as hooks receive it.

    Args:
      step: updates done, from 1.
      first_step: the first step of this process.
      last_step: the last step of the run.
      state: the state after the step; the next step donates its buffers, so copy any values to keep.
      metrics: scalars by name, still on the devices: reading one blocks until the step is done. Empty for a skipped
        step.
    """

    step: int
    first_step: int
    last_step: int
    state: TrainState
    metrics: Metrics

    def is_due(self, every_steps: int) -> bool:
        """Returns whether the step is a multiple of ``every_steps``, or the run's last."""
        return self.step == self.last_step or (bool(every_steps) and self.step % every_steps == 0)


class Hook:
    """A callback around the training steps; each hook decides on its own at which steps it acts."""

    cause: ClassVar[str] = "other"  # the category of its time in the goodput ledger, a key of `goodput.CAUSES`

    def __enter__(self) -> Self:
        """Called before the first step."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Called after the last step, with the error that ended training, if any."""

    def before_step(self, step: int) -> None:
        """Called before each step."""

    def after_step(self, info: StepInfo) -> None:
        """Called after each step."""


HOOKS: Registry[Hook] = Registry("train.hooks", Hook, {})  # only for users' hooks: the default hooks need no name
