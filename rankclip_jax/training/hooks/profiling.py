"""Profiles steps for XProf and Perfetto: those that the settings name, or the next few after a signal."""

import contextlib
import signal
import threading
from types import TracebackType
from typing import Any, Self

import jax

from rankclip_jax.cli.console import say
from rankclip_jax.training.hooks import Hook, StepInfo
from rankclip_jax.training.run import Run

_SIGNAL = signal.SIGUSR2
_SIGNAL_STEPS = 5  # steps traced after a signal


class ProfileHook(Hook):
    """Traces steps ``first`` to ``last`` of every process, and `_SIGNAL_STEPS` of a process that receives SIGUSR2.

    Args:
      run: the run.
    """

    def __init__(self, run: Run) -> None:
        self._first, self._last = run.experiment.config.logging.profile_steps
        self._folder, self._start_step, self._events = run.workdir / "profile", run.start_step, run.events
        self._requested, self._until = False, 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Installs the signal handler, and starts a trace if the first step is to be traced."""
        if threading.current_thread() is threading.main_thread():
            previous: Any = signal.signal(_SIGNAL, self._ask)
            self._stack.callback(signal.signal, _SIGNAL, previous)
        self._stack.callback(self._end, self._start_step)
        self._begin_before(self._start_step + 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stops a running trace."""
        self._stack.close()

    def after_step(self, info: StepInfo) -> None:
        """Stops a trace after its last step, and starts one before its first."""
        if self._until and info.step >= min(self._until, info.last_step):
            jax.block_until_ready(info.metrics)
            self._end(info.step)
        self._begin_before(info.step + 1)

    def _begin_before(self, step: int) -> None:
        if self._until or not (self._requested or step == self._first):
            return
        self._until = self._last if step == self._first else step + _SIGNAL_STEPS - 1
        self._requested = False
        jax.profiler.start_trace(str(self._folder / f"from_step_{step}"))

    def _end(self, step: int) -> None:
        if not self._until:
            return
        self._until = 0
        jax.profiler.stop_trace()
        self._events.write("profiled", step=step, folder=str(self._folder))
        say(f"profile up to step {step}: {self._folder} (tensorboard --logdir {self._folder}, or ui.perfetto.dev)")

    def _ask(self, number: int, frame: object) -> None:
        del number, frame
        self._requested = True
