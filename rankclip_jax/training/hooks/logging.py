"""Writes the numbers of a step, and shows them on the progress line."""

import contextlib
from collections.abc import Callable, Sequence

from rankclip_jax.cli.console import format_duration, renew, say
from rankclip_jax.monitoring.throughput import Clock
from rankclip_jax.monitoring.timeline import Timeline
from rankclip_jax.monitoring.writers import Values, Writer
from rankclip_jax.training.hooks import StepInfo

_NOT_ON_THE_LINE = ("logit_scale", "gradient_norm", "learning_rate", "ranking_weight", "finite")


class Logging(contextlib.ExitStack):
    """Every ``every_steps`` steps, at the first of this process and at the last of the run.

    Beside the step's own numbers: ``pairs_per_second``, ``step_seconds`` and ``input_seconds`` (what each step since
    the last ones took, and the part of it in which it waited for its batch), ``mfu`` where the devices' peak is known,
    and ``unreadable``.

    Args:
      writers: closed at the end; none in a process that does not write.
      start_step: updates done before this process began.
      timeline: what the run does, and for how long.
      useful_share: operations of a step that nothing computes again, by the peak of all devices; None: not known.
      pairs_per_step: over all devices.
      every_steps: how often.
      unreadable: the records that could not be read so far, of all processes.
    """

    def __init__(
        self,
        writers: Sequence[Writer],
        start_step: int,
        timeline: Timeline,
        *,
        useful_share: float | None,
        pairs_per_step: int,
        every_steps: int,
        unreadable: Callable[[], int],
    ) -> None:
        super().__init__()
        self._writers = writers
        for writer in writers:
            self.callback(writer.close)
        self._clock = Clock(start_step, pairs_per_step)
        self._timeline, self._useful_share = timeline, useful_share
        self._step, self._seconds = start_step, timeline.seconds()
        self._pairs_a_step, self._every_steps, self._unreadable = pairs_per_step, every_steps, unreadable

    def __call__(self, info: StepInfo) -> None:
        """Logs the step if it is due."""
        due = info.is_due(self._every_steps) or info.step == info.first_step
        if not due or not info.metrics:
            return
        values = {"loss": 0.0} | {name: float(value) for name, value in info.metrics.items()}  # waits for the step
        rate = self._clock.read(info.step)
        told = values | {"pairs_per_second": rate} | self._times(info.step) | {"unreadable": self._unreadable()}
        self.write(info.step, told)
        if self._writers:
            (say if info.step == info.last_step else renew)(self._line(info, values, rate))

    def _times(self, step: int) -> dict[str, float]:
        """Seconds of each step since the last that was logged; steps are computed while batches are waited for."""
        seconds, steps = self._timeline.seconds(), step - self._step
        waited = (seconds["input"] - self._seconds["input"]) / steps
        taken = waited + (seconds["step"] - self._seconds["step"]) / steps
        self._step, self._seconds = step, seconds
        times = {"step_seconds": taken, "input_seconds": waited}
        return times | ({"mfu": self._useful_share / taken} if self._useful_share else {})

    def restart_clock(self, step: int) -> None:
        """Counts the pairs per second from here: what came since ``step`` was not training."""
        self._clock.restart(step)

    def write(self, step: int, values: Values) -> None:
        """Gives the numbers of a step to all writers."""
        for writer in self._writers:
            writer.write(step, values)

    def flush(self) -> None:
        """Makes sure that what writers were given is written."""
        for writer in self._writers:
            writer.flush()

    def _line(self, info: StepInfo, values: dict[str, float], rate: float) -> str:
        terms = "  ".join(f"{name} {value:.4f}" for name, value in values.items() if name not in _NOT_ON_THE_LINE)
        left = format_duration((info.last_step - info.step) * self._pairs_a_step / rate)
        speed = "(the first step)" if info.step == info.first_step else f"{rate:,.0f} pairs/s  {left} left"
        return f"step {info.step}/{info.last_step} {info.step / info.last_step:4.0%}  {terms}  {speed}"
