"""What a person and other programs see of a run: the progress line, ``metrics.jsonl`` and TensorBoard events."""

import json
import sys
import time
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from tensorboardX import SummaryWriter

from input_pipeline.unreadable import UnreadableTally
from rankclip_jax.train_state import Metrics, TrainState

_NOT_ON_THE_LINE = ("logit_scale", "gradient_norm", "learning_rate", "ranking_weight")


class Logs:
    """Writes the metrics of every ``every_steps``-th step, of the first and of the last.

    Args:
      start_step: steps done before this process began; later lines of an earlier attempt are dropped.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        start_step: int,
        total_steps: int,
        every_steps: int,
        global_batch_size: int,
        unreadable: UnreadableTally,
    ) -> None:
        self._total_steps, self._every_steps = total_steps, every_steps
        self._global_batch_size = global_batch_size
        self._unreadable = unreadable
        self._first_step = self._last_step = start_step
        self._last_time = time.perf_counter()
        self._timed = False
        self._writes = jax.process_index() == 0
        if self._writes:
            self._file = _without_later_steps(workdir / "metrics.jsonl", start_step).open("a", encoding="utf8")
            self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step)

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        if step % self._every_steps and step not in (self._first_step + 1, self._total_steps):
            return
        values = {"loss": 0.0} | {name: float(value) for name, value in metrics.items()}  # waits for the step
        now = time.perf_counter()
        unreadable, tried = _sum_over_processes(self._unreadable.count, self._unreadable.tried)
        rate = (step - self._last_step) * self._global_batch_size / (now - self._last_time)
        if self._writes:
            self.write({"step": step, **values, "pairs_per_second": rate, "unreadable": unreadable})
            print_progress(self._line(step, values, rate), last=step == self._total_steps)
        self._unreadable.judge(unreadable, tried)
        self.restart_clock(step)

    def restart_clock(self, step: int) -> None:
        """Counts the pairs per second from here: what came since ``step`` was not training."""
        self._last_step, self._last_time, self._timed = step, time.perf_counter(), True

    def write(self, values: dict[str, float]) -> None:
        """Adds one object to ``metrics.jsonl`` and its values to the TensorBoard events."""
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()
        for name, value in values.items():
            if name != "step":
                self._events.add_scalar(name, value, values["step"])

    def close(self) -> None:
        if self._writes:
            self._file.close()
            self._events.close()

    def _line(self, step: int, values: dict[str, float], rate: float) -> str:
        terms = "  ".join(f"{name} {value:.4f}" for name, value in values.items() if name not in _NOT_ON_THE_LINE)
        left = format_duration((self._total_steps - step) * self._global_batch_size / rate)
        speed = f"{rate:,.0f} pairs/s  {left} left" if self._timed else "(the first step, compilation included)"
        return f"step {step}/{self._total_steps} {step / self._total_steps:4.0%}  {terms}  {speed}"


def _sum_over_processes(*counts: int) -> list[int]:
    if jax.process_count() == 1:
        return list(counts)
    return multihost_utils.process_allgather(np.asarray(counts)).sum(axis=0).tolist()


def print_progress(line: str, last: bool) -> None:
    """One line that renews itself in a terminal; a new line each time elsewhere."""
    if sys.stdout.isatty():
        print(f"\r\x1b[K{line}", end="\n" if last else "", flush=True)
    else:
        print(line, flush=True)


def format_duration(seconds: float) -> str:
    """``"1 h 05 min"``, ``"2 min 10 s"``, ``"7 s"``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


def _without_later_steps(path: Path, start_step: int) -> Path:
    """Drops what an attempt that was cut off wrote after its last checkpoint, and a line cut in half."""
    if path.exists():
        kept = []
        for line in path.read_text(encoding="utf8").splitlines():
            try:
                if json.loads(line)["step"] <= start_step:
                    kept.append(line + "\n")
            except ValueError:
                continue
        path.write_text("".join(kept), encoding="utf8")
    return path
