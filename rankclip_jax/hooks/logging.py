"""Writes the numbers of a step, and shows them on the progress line."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from rankclip_jax.hooks import StepInfo
from rankclip_jax.telemetry.clock import Clock, format_duration
from rankclip_jax.telemetry.console import renew, say
from rankclip_jax.telemetry.writers import JsonLines, TensorBoard, Values, Writer

_NOT_ON_THE_LINE = ("logit_scale", "gradient_norm", "learning_rate", "ranking_weight", "finite")


class Logging(contextlib.ExitStack):
    """Every ``every_steps`` steps, at the first of this process and at the last of the run.

    Args:
      workdir: the folder of ``metrics.jsonl`` and TensorBoard's events; None in a process that does not write.
      start_step: updates done before this process began.
      pairs_a_step: over all devices.
      every_steps: how often.
      unreadable: the records that could not be read so far, of all processes.
    """

    def __init__(
        self,
        workdir: Path | None,
        start_step: int,
        *,
        pairs_a_step: int,
        every_steps: int,
        unreadable: Callable[[], int],
    ) -> None:
        super().__init__()
        self._writers: list[Writer] = []
        if workdir:
            self._writers.append(JsonLines(workdir / "metrics.jsonl", start_step))
            self._writers.append(TensorBoard(workdir / "tensorboard", start_step))
        for writer in self._writers:
            self.callback(writer.close)
        self._clock = Clock(start_step, pairs_a_step)
        self._pairs_a_step, self._every_steps, self._unreadable = pairs_a_step, every_steps, unreadable

    def __call__(self, info: StepInfo) -> None:
        """Logs the step if it is due."""
        due = info.is_due(self._every_steps) or info.step == info.first_step
        if not due or not info.metrics:
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
