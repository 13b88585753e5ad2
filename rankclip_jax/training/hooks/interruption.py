"""Ctrl-C, and the notice that a scheduler gives before it kills: save, then stop."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import jax

from rankclip_jax.distributed.start_up import named
from rankclip_jax.distributed.stopping import StopCoordinator
from rankclip_jax.training.hooks import Hook, StepInfo

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_WAKE = signal.SIGALRM  # of the main thread by the other one
_LAST_WORDS = 20  # seconds that the main thread has to leave what it was in


class Interrupted(Exception):
    """The run was asked to stop by a signal, and has saved."""

    def __init__(self, step: int, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number} after step {step}")
        self.step, self.signal_number = step, signal_number


class InterruptHook(Hook):
    """When a signal has come to any process, saves the same step on all and raises `Interrupted`.

    They stop after a step, or before a batch of an evaluation; a second signal ends at once. A process that is alone
    does not wait for either: if it comes to none within ``patience`` seconds, a thread saves the state after the last
    step, and `Interrupted` is raised wherever the main thread is. Who has not saved after ``deadline`` seconds leaves
    with what was saved before.

    Args:
      save: saves the state after a step, and returns when it is safe: the step that is now saved.
      patience: ``config.checkpoint.patience_seconds``.
      deadline: ``config.checkpoint.deadline_seconds``.
    """

    cause = "checkpoint"

    def __init__(self, save: Callable[[StepInfo], int], *, patience: float, deadline: float) -> None:
        self._save, self._patience, self._deadline = save, patience, deadline
        self._stack = contextlib.ExitStack()
        self._alone = jax.process_count() == 1
        self._stopping = StopCoordinator()
        self._over = threading.Event()
        line = named("Stopping: the step under way is finished and saved first. The same signal again stops at once.")
        self._words = f"\n{line}\n".encode()
        self._in_step = threading.Lock()  # held while a state is given away, and until it was looked at
        self._last: StepInfo | None = None
        self._raised: BaseException | None = None

    def __enter__(self) -> Self:
        """Listens from here on, in the main thread, which alone hears signals."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._handle(number, self._receive)
            if self._alone:
                self._handle(_WAKE, self._wake)
            watch = threading.Thread(target=self._watch, daemon=True)
            watch.start()
            # It owns the last state through this object: freed while Python ends, an array would abort the process.
            self._stack.callback(watch.join)
        self._stack.callback(self._stopping.close)
        self._stack.callback(self._over.set)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Listens no more."""
        self._stack.close()

    def _handle(self, number: int, handler: Any) -> None:
        previous: Any = signal.signal(number, handler)
        self._stack.callback(signal.signal, number, previous)

    def before_step(self, step: int) -> None:
        """From here until `after_step`, the last state is not there."""
        del step
        self._in_step.acquire()
        try:
            self.check_interrupt()
        except BaseException:
            self._in_step.release()
            raise

    def check_interrupt(self) -> None:
        """Called before each thing that processes do together: saves and raises `Interrupted` if it is not to be."""
        if not self._stopping.begin():
            self._stop()

    def after_step(self, info: StepInfo) -> None:
        """Saves and raises `Interrupted` if no other step is to be begun and no other process is there.

        Another may be on its way to the next step already, and counts unreadable records with this one before it: so
        those that are several stop when all come to begin it.
        """
        self._last = info
        try:
            if self._alone and self._stopping.is_over():
                self._stop()
        finally:
            self._in_step.release()

    def _stop(self) -> None:
        assert self._last is not None  # since the first step is always made
        raise Interrupted(self._save(self._last), self._stopping.signal_number)

    def _receive(self, number: int, frame: object) -> None:
        del frame
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        # A handler may come in the middle of a print, so this writes past Python's buffers.
        os.write(2, self._words)
        self._stopping.request(number)

    def _watch(self) -> None:
        """Another thread: hears the word, and acts where the main one does not come to act on it."""
        if not self._stopping.wait(self._over):
            return
        leave = threading.Timer(self._deadline, self._leave)
        leave.daemon = True
        leave.start()
        if self._stopping.sync(self._over) and self._alone and not self._over.wait(self._patience):
            self._save_from_here()
        self._over.wait()
        leave.cancel()

    def _save_from_here(self) -> None:
        with self._in_step:
            if self._over.is_set() or self._last is None:
                return
            try:
                self._stop()
            except BaseException as error:  # which is the main thread's to tell
                self._raised = error
            signal.pthread_kill(threading.main_thread().ident or 0, _WAKE)
            if not self._over.wait(_LAST_WORDS):
                os._exit(128 + self._stopping.signal_number)

    def _leave(self) -> None:
        print(
            named(
                f"not saved within {self._deadline:g} seconds of the signal (config.checkpoint.deadline_seconds), so "
                "the run ends with what was saved before."
            ),
            file=sys.stderr,
            flush=True,
        )
        os._exit(128 + self._stopping.signal_number)

    def _wake(self, number: int, frame: object) -> None:
        del number, frame
        if self._raised:
            raise self._raised
