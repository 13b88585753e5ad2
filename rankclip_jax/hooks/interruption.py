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

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_WAKE = signal.SIGALRM  # of the main thread by the other one
_LAST_WORDS = 20  # seconds that the main thread has to leave what it was in


class Interrupted(Exception):
    """The run was asked to stop by a signal, and has saved."""

    def __init__(self, step: int, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number} after step {step}")
        self.step, self.signal_number = step, signal_number


class Interruption(contextlib.ExitStack):
    """After the step in which a signal came, saves and raises `Interrupted`; a second signal ends at once.

    A process that is alone does not wait for the end of an evaluation, or for a batch: if no step ends within
    ``patience`` seconds, a thread saves the state after the last one, and `Interrupted` is raised wherever the main
    thread is. Several processes agree every ``every_steps`` steps on whether one of them was told to stop, since all
    must save together.

    Args:
      save: saves the state after a step, and returns when it is safe.
      every_steps: how often processes agree; one that is alone looks after each step.
      patience: seconds.
    """

    def __init__(self, save: Callable[[StepInfo], None], *, every_steps: int, patience: float) -> None:
        super().__init__()
        self._save, self._patience = save, patience
        self._alone = jax.process_count() == 1
        self._every_steps = 1 if self._alone else every_steps
        self._signal = 0
        self._told, self._over = threading.Event(), threading.Event()
        self._in_step = threading.Lock()  # held while a state is given away, and until it was looked at
        self._last: StepInfo | None = None
        self._raised: BaseException | None = None

    def __enter__(self) -> "Interruption":
        """Listens from here on, in the main thread, which alone hears signals."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._handle(number, self._receive)
            if self._alone:
                self._handle(_WAKE, self._wake)
                threading.Thread(target=self._watch, daemon=True).start()
        self.callback(self._over.set)
        return self

    def _handle(self, number: int, handler: Any) -> None:
        previous: Any = signal.signal(number, handler)
        self.callback(signal.signal, number, previous)

    def step_begins(self) -> None:
        """From here until this is called, the last state is not there."""
        self._in_step.acquire()

    def __call__(self, info: StepInfo) -> None:
        """Saves and raises `Interrupted` if a signal has come."""
        self._last = info
        try:
            number = 0 if info.step % self._every_steps else largest_of_all(self._signal)
            if number:
                self._save(info)
                raise Interrupted(info.step, number)
        finally:
            self._in_step.release()

    def _receive(self, number: int, frame: object) -> None:
        del frame
        self._signal = number
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        # A handler may come in the middle of a print, so this writes past Python's buffers.
        os.write(
            2, b"\nStopping: the step under way is finished and saved first. The same signal again stops at once.\n"
        )
        self._told.set()

    def _watch(self) -> None:
        """Another thread: saves where the main one does not come to the end of a step."""
        self._told.wait()
        if self._over.wait(self._patience):
            return
        with self._in_step:
            if self._over.is_set() or self._last is None:
                return
            try:
                self._save(self._last)
                self._raised = Interrupted(self._last.step, self._signal)
            except BaseException as error:  # which is the main thread's to tell
                self._raised = error
            signal.pthread_kill(threading.main_thread().ident or 0, _WAKE)
            if not self._over.wait(_LAST_WORDS):
                os._exit(128 + self._signal)

    def _wake(self, number: int, frame: object) -> None:
        del number, frame
        if self._raised:
            raise self._raised
