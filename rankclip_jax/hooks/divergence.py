"""Stops a run whose numbers are no longer finite, before they are saved."""

import contextlib
import math
from collections.abc import Callable

from input_pipeline.errors import UserError
from rankclip_jax.hooks import StepInfo


class Divergence(contextlib.nullcontext):
    """Looks at the loss and the gradients' norm at each step that is logged or saved.

    Args:
      every_steps: how often steps are logged, saved, and so on.
      last_good_step: the newest checkpoint; None: there is none.
    """

    def __init__(self, *every_steps: int, last_good_step: Callable[[], int | None]) -> None:
        super().__init__()
        self._every_steps, self._last_good_step = every_steps, last_good_step

    def __call__(self, info: StepInfo) -> None:
        """Looks if the step is due.

        Raises:
          UserError: the run has diverged.
        """
        if info.step == info.first_step or any(info.is_due(every) for every in self._every_steps):
            self.check(info)

    def check(self, info: StepInfo) -> None:
        """Looks at this step whatever its number.

        Raises:
          UserError: the run has diverged.
        """
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(info.metrics[name]):
                raise UserError(self._explain(name, info))

    def _explain(self, name: str, info: StepInfo) -> str:
        found = f"the {name} is {float(info.metrics[name])} at step {info.step}"
        if info.step == 1:
            return (
                f"{found}, before anything was learned: the learning rate is not to blame, but what the run starts "
                "with. Look at config.init_from, if it is given, and at config.objective and config.model; "
                "--config.model.dtype=float32 has the widest range."
            )
        good = self._last_good_step()
        kept = "There is no checkpoint yet" if good is None else f"The last good checkpoint is of step {good}"
        return (
            f"{found}: the run has diverged and is not saved. {kept}. Try a new run with a lower "
            "--config.optimizer.learning_rate, a longer --config.optimizer.warmup_share, or with "
            "--config.optimizer.gradient_clip=1.0."
        )
