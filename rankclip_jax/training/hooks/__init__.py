"""What happens beside the step: a hook is called after each, and hears at the end how the run ended."""

import dataclasses
from types import TracebackType
from typing import Protocol

from rankclip_jax.objectives.objective import Metrics
from rankclip_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class StepInfo:
    """What a hook is told after a step.

    Args:
      step: updates done, from 1.
      first_step: the first of this process.
      last_step: the last of the run.
      state: after the step; its buffers are given away to the next one.
      metrics: scalars by name, still on the devices: reading one waits for the step. None, of a step that was left out.
    """

    step: int
    first_step: int
    last_step: int
    state: TrainState
    metrics: Metrics

    def is_due(self, every_steps: int) -> bool:
        """Whether this is a step to attend to: every so many, and the run's last."""
        return self.step == self.last_step or (bool(every_steps) and self.step % every_steps == 0)


class Hook(Protocol):
    """One matter that a run attends to after its steps; a context that the run is inside of."""

    def __call__(self, info: StepInfo) -> None:
        """Called after each step."""
        ...

    def __enter__(self) -> object:
        """Called before the first step."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Called at the end, with the error that ended the run, if any."""
        ...
