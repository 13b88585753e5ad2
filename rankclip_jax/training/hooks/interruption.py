"""Handles Ctrl-C and a scheduler's termination signals: saves a checkpoint, then stops."""

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
_WAKE = signal.SIGALRM  # sent to the main thread by the watching thread
_LAST_WORDS = 20  # seconds that the main thread has to unwind before the process exits


class Interrupted(Exception):
    """Raised after a signal has stopped the run and its state is saved."""

    def __init__(self, step: int, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number} after step {step}")
        self.step, self.signal_number = step, signal_number


class InterruptHook(Hook):
    """Saves the same step on all processes and raises `Interrupted` after any process has received a signal.

    Processes stop after a step, or before a batch of an evaluation; a second signal exits at once. A run with a single
    process does not wait for these points longer than ``patience`` seconds: then a thread saves the state after the
    last step, and `Interrupted` is raised wherever the main thread is. A process that has not saved after ``deadline``
    seconds exits with the checkpoints that were saved before.

    Args:
      save: saves the state after a step, waits until it is written, and returns the saved step.
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
        line = named("Stopping: finishing and saving the current step first. Send the signal again to stop at once.")
        self._words = f"\n{line}\n".encode()
        self._in_step = threading.Lock()  # held while the state is donated to a step, until the step is handled
        self._last: StepInfo | None = None
        self._raised: BaseException | None = None

    def __enter__(self) -> Self:
        """Installs the signal handlers, if called in the main thread, which is the only one that receives signals."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._handle(number, self._receive)
            if self._alone:
                self._handle(_WAKE, self._wake)
            watch = threading.Thread(target=self._watch, daemon=True)
            watch.start()
            # The thread keeps the last state alive: an array freed during Python's shutdown would abort the process.
            self._stack.callback(watch.join)
        self._stack.callback(self._stopping.close)
        self._stack.callback(self._over.set)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Restores the previous signal handlers."""
        self._stack.close()

    def _handle(self, number: int, handler: Any) -> None:
        previous: Any = signal.signal(number, handler)
        self._stack.callback(signal.signal, number, previous)

    def before_step(self, step: int) -> None:
        """Marks the last state as donated, until `after_step`."""
        del step
        self._in_step.acquire()
        try:
            self.check_interrupt()
        except BaseException:
            self._in_step.release()
            raise

    def check_interrupt(self) -> None:
        """Saves and raises `Interrupted` if a stop was requested; called before each collective operation."""
        if not self._stopping.begin():
            self._stop()

    def after_step(self, info: StepInfo) -> None:
        """Saves and raises `Interrupted` if a stop was requested and the run has a single process.

        With several processes, another one may already be on its way to the next step, and sums unreadable records with
        this one before it. They therefore stop together before the next step.
        """
        self._last = info
        try:
            if self._alone and self._stopping.is_over():
                self._stop()
        finally:
            self._in_step.release()

    def _stop(self) -> None:
        assert self._last is not None  # the first step is always taken
        raise Interrupted(self._save(self._last), self._stopping.signal_number)

    def _receive(self, number: int, frame: object) -> None:
        del frame
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        # The handler may interrupt a print, so this bypasses Python's buffers.
        os.write(2, self._words)
        self._stopping.request(number)

    def _watch(self) -> None:
        """Runs in a thread: waits for a stop request, and saves if the main thread does not do so in time."""
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
            except BaseException as error:  # raised again in the main thread
                self._raised = error
            signal.pthread_kill(threading.main_thread().ident or 0, _WAKE)
            if not self._over.wait(_LAST_WORDS):
                os._exit(128 + self._stopping.signal_number)

    def _leave(self) -> None:
        print(
            named(
                f"no checkpoint was saved within {self._deadline:g} seconds of the signal "
                "(config.checkpoint.deadline_seconds). The run exits without saving; earlier checkpoints are kept."
            ),
            file=sys.stderr,
            flush=True,
        )
        os._exit(128 + self._stopping.signal_number)

    def _wake(self, number: int, frame: object) -> None:
        del number, frame
        if self._raised:
            raise self._raised
