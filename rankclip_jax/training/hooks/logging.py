"""Logs the metrics of a step, and shows them on the progress line."""

import contextlib
from types import TracebackType

from rankclip_jax.cli.console import format_duration, renew, say
from rankclip_jax.distributed.processes import is_primary_process
from rankclip_jax.monitoring.clock import Clock
from rankclip_jax.monitoring.window import Window
from rankclip_jax.monitoring.writers import Values, make_writers
from rankclip_jax.planning.hardware import peak_flops
from rankclip_jax.planning.plan import useful_flops
from rankclip_jax.training.hooks import Hook, StepInfo
from rankclip_jax.training.run import Run
from rankclip_jax.training.step import trace_step

_NOT_ON_THE_LINE = ("logit_scale", "gradient_norm", "learning_rate", "ranking_weight", "finite")


class LoggingHook(Hook):
    """Logs every ``config.logging.every_steps`` steps, at the first step of this process and at the last of the run.

    A step's metrics are means over the steps since the last log. In addition it logs ``pairs_per_second``;
    ``step_seconds`` and ``input_seconds``, the mean duration of these steps and the part spent waiting for the batch;
    ``mfu`` where the devices' peak is known; and ``unreadable``.

    Args:
      run: the run.
    """

    cause = "step"  # it waits for the step

    def __init__(self, run: Run) -> None:
        config, devices = run.experiment.config, list(run.experiment.layout.mesh.devices.flat)
        self._writers = make_writers(run.workdir, run.start_step, config) if is_primary_process() else []
        self._timeline, self._tally = run.timeline, run.tally
        self._every_steps, self._pairs_per_step = config.logging.every_steps, config.train.global_batch_size
        self._clock = Clock(run.start_step, self._pairs_per_step)
        self._step, self._seconds = run.start_step, run.timeline.seconds()
        self._window = Window()
        peak = peak_flops(devices[0].device_kind)
        # Useful FLOPs of a step, without recomputation, per peak FLOP/s of all devices.
        self._useful = useful_flops(trace_step, config, devices) / (peak * len(devices)) if peak else None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the writers."""
        with contextlib.ExitStack() as stack:
            for writer in self._writers:
                stack.callback(writer.close)

    def after_step(self, info: StepInfo) -> None:
        """Logs if the step is due."""
        if info.metrics:
            self._window.add(info.metrics)
        if not (info.is_due(self._every_steps) or info.step == info.first_step) or not info.metrics:
            return
        values = {"loss": 0.0} | self._window.means()  # waits for the step
        rate = self._clock.read(info.step)
        logged = values | {"pairs_per_second": rate} | self._times(info.step) | {"unreadable": self._tally.count}
        self.write(info.step, logged)
        if self._writers:
            (say if info.step == info.last_step else renew)(self._line(info, values, rate))

    def _times(self, step: int) -> dict[str, float]:
        """Returns the mean seconds per step since the last log; devices compute while the host waits for a batch."""
        seconds, steps = self._timeline.seconds(), step - self._step
        waited = (seconds["input"] - self._seconds["input"]) / steps
        taken = waited + (seconds["step"] - self._seconds["step"]) / steps
        self._step, self._seconds = step, seconds
        times = {"step_seconds": taken, "input_seconds": waited}
        return times | ({"mfu": self._useful / taken} if self._useful else {})

    def restart_clock(self, step: int) -> None:
        """Restarts the measurement of pairs per second, to exclude the time since ``step``."""
        self._clock.restart(step)

    def write(self, step: int, values: Values) -> None:
        """Writes the values of a step to all writers."""
        for writer in self._writers:
            writer.write(step, values)

    def flush(self) -> None:
        """Flushes all writers."""
        for writer in self._writers:
            writer.flush()

    def _line(self, info: StepInfo, values: dict[str, float], rate: float) -> str:
        terms = "  ".join(f"{name} {value:.4f}" for name, value in values.items() if name not in _NOT_ON_THE_LINE)
        left = format_duration((info.last_step - info.step) * self._pairs_per_step / rate)
        speed = "(the first step)" if info.step == info.first_step else f"{rate:,.0f} pairs/s  {left} left"
        return f"step {info.step}/{info.last_step} {info.step / info.last_step:4.0%}  {terms}  {speed}"
