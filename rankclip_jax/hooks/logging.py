"""Writes the numbers of a step, and shows them on the progress line."""

import contextlib
from collections.abc import Callable, Sequence

from rankclip_jax.hooks import StepInfo
from rankclip_jax.telemetry.clock import Clock, format_duration
from rankclip_jax.telemetry.console import renew, say
from rankclip_jax.telemetry.writers import Values, Writer

_NOT_ON_THE_LINE = ("logit_scale", "gradient_norm", "learning_rate", "ranking_weight")


class Logging(contextlib.ExitStack):
    """Every ``every_steps`` steps, at the first of this process and at the last of the run.

    Args:
      writers: where the numbers go; none in a process that does not write.
      clock: how fast the run goes.
      pairs_a_step: over all devices.
      every_steps: how often.
      unreadable: the records that could not be read so far, of all processes.
    """

    def __init__(
        self,
        writers: Sequence[Writer],
        clock: Clock,
        *,
        pairs_a_step: int,
        every_steps: int,
        unreadable: Callable[[], int],
    ) -> None:
        super().__init__()
        self._writers, self._clock, self._unreadable = writers, clock, unreadable
        self._pairs_a_step, self._every_steps = pairs_a_step, every_steps
        for writer in writers:
            self.callback(writer.close)

    def __call__(self, info: StepInfo) -> None:
        """Logs the step if it is due."""
        if not info.is_due(self._every_steps) and info.step != info.first_step:
            return
        values = {"loss": 0.0} | {name: float(value) for name, value in info.metrics.items()}  # waits for the step
        rate = self._clock.read(info.step)
        self.write(info.step, values | {"pairs_per_second": rate, "unreadable": self._unreadable()})
        if self._writers:
            (say if info.step == info.last_step else renew)(self._line(info, values, rate))

    def restart_clock(self, step: int) -> None:
        """Counts the pairs per second from here: what came since ``step`` was not training."""
        self._clock.restart(step)

    def write(self, step: int, values: Values) -> None:
        """Gives the numbers of a step to all writers."""
        for writer in self._writers:
            writer.write(step, values)

    def _line(self, info: StepInfo, values: dict[str, float], rate: float) -> str:
        terms = "  ".join(f"{name} {value:.4f}" for name, value in values.items() if name not in _NOT_ON_THE_LINE)
        left = format_duration((info.last_step - info.step) * self._pairs_a_step / rate)
        speed = "(the first step)" if info.step == info.first_step else f"{rate:,.0f} pairs/s  {left} left"
        return f"step {info.step}/{info.last_step} {info.step / info.last_step:4.0%}  {terms}  {speed}"
