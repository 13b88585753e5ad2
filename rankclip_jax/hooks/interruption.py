"""Ctrl-C, and the notice that a scheduler gives before it kills: save, then stop."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import jax

from rankclip_jax.hooks import StepInfo
from rankclip_jax.parallel.processes import largest_of_all

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """The run was asked to stop by a signal, and has saved."""

    def __init__(self, step: int, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number} after step {step}")
        self.step, self.signal_number = step, signal_number


class Interruption(contextlib.ExitStack):
    """After the step in which a signal came, saves and raises `Interrupted`; a second signal ends at once.

    Processes agree every ``every_steps`` steps on whether one of them was told to stop, since all must save together.

    Args:
      save: saves the state after a step.
      every_steps: how often processes agree; one that is alone looks after each step.
    """

    def __init__(self, save: Callable[[StepInfo], None], *, every_steps: int) -> None:
        super().__init__()
        self._save = save
        self._every_steps = every_steps if jax.process_count() > 1 else 1
        self._signal = 0

    def __enter__(self) -> "Interruption":
        """Listens from here on, in the main thread, which alone hears signals."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                previous: Any = signal.signal(number, self._receive)
                self.callback(signal.signal, number, previous)
        return self

    def __call__(self, info: StepInfo) -> None:
        """Saves and raises `Interrupted` if a signal has come."""
        if info.step % self._every_steps:
            return
        number = largest_of_all(self._signal)
        if number:
            self._save(info)
            raise Interrupted(info.step, number)

    def _receive(self, number: int, frame: object) -> None:
        del frame
        self._signal = number
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        # A handler may come in the middle of a print, so this writes past Python's buffers.
        os.write(
            2, b"\nStopping: the step under way is finished and saved first. The same signal again stops at once.\n"
        )
