"""Ctrl-C, and the notice that a scheduler gives before it kills: save, then stop."""

import shlex
import signal
import sys

import jax
import numpy as np
from jax.experimental import multihost_utils

from rankclip_jax.hooks.saving import Saving
from rankclip_jax.train_state import Metrics, TrainState

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """The run was asked to stop, and has saved; ``status`` is the process's exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Interruption:
    """After the step in which a signal came, saves and raises `Interrupted`; a second signal ends at once.

    Processes agree every ``every_steps`` steps on whether one of them was told to stop, since all must save together.
    """

    def __init__(self, saving: Saving, *, every_steps: int) -> None:
        self._saving = saving
        self._every_steps = every_steps if jax.process_count() > 1 else 1
        self._signal = 0
        self._previous = {number: signal.signal(number, self._receive) for number in _SIGNALS}

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        if step % self._every_steps:
            return
        number = self._signal
        if jax.process_count() > 1:
            number = int(multihost_utils.process_allgather(np.int32(number)).max())
        if number:
            self._saving.save(step, state, metrics)
            command = shlex.join(["python", "-m", "rankclip_jax.train", *sys.argv[1:]])
            raise Interrupted(
                f"\nStopped and saved at step {step}. Go on with the same command: {command}", 128 + number
            )

    def close(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: object) -> None:
        self._signal = number
        signal.signal(number, self._previous[signal.Signals(number)])
