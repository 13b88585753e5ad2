"""What happens beside the step: a hook is called after each with ``(step, state, metrics)``, and closed at the end.

``step`` counts the steps done; ``metrics`` are scalars still on the devices: reading one waits for the step.
"""

from typing import Protocol

from rankclip_jax.train_state import Metrics, TrainState


class Hook(Protocol):
    """One matter that a run attends to after its steps."""

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None: ...

    def close(self) -> None: ...
