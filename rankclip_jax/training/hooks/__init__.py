"""What happens beside the step: a hook is called before and after each, and is a context that the steps are inside of.

One of your own is a subclass of `Hook`: an instance of it in ``train(config, workdir, hooks=[...])``, or its dotted
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
    """What a hook sees after a step.

    Args:
      step: updates done, from 1.
      first_step: the first of this process.
      last_step: the last of the run.
      state: after the step; the next one reuses its buffers, so copy what is kept.
      metrics: scalars by name, still on the devices: reading one waits for the step. Empty for a step that was skipped.
    """

    step: int
    first_step: int
    last_step: int
    state: TrainState
    metrics: Metrics

    def is_due(self, every_steps: int) -> bool:
        """Whether this is one of every so many steps, or the run's last."""
        return self.step == self.last_step or (bool(every_steps) and self.step % every_steps == 0)


class Hook:
    """One thing that a run does beside its steps; it decides by itself at which."""

    cause: ClassVar[str] = "other"  # what its time counts as in the ledger, a key of `goodput.CAUSES`

    def __enter__(self) -> Self:
        """Called before the first step."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Called at the end, with the error that ended the steps, if any."""

    def before_step(self, step: int) -> None:
        """Called before each step."""

    def after_step(self, info: StepInfo) -> None:
        """Called after each step."""


HOOKS: Registry[Hook] = Registry("train.hooks", Hook, {})  # of one's own alone: those of every run need no name
