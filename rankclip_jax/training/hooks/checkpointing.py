"""Saves a checkpoint every so many steps or minutes and at the end, and tries again where it cannot be written."""

import functools
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import jax
from ml_collections import ConfigDict

from rankclip_jax.checkpoints.manager import Checkpoints, SavingFailed
from rankclip_jax.distributed.processes import max_across_processes
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.monitoring.events import Events
from rankclip_jax.training.hooks import StepInfo

_PAUSE = 60  # seconds, before one that failed is tried again


class Saving:
    """At the steps and minutes of the settings, at the last step, and at ``also_at``.

    Args:
      checkpoints: where.
      config: the settings under ``config.checkpoint``.
      also_at: a step.
      look_every: steps after which processes agree on whether so many minutes have passed.
      events: where failures are recorded.
      before: called before each with its step, for what must not be missing beside it.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        config: ConfigDict,
        *,
        also_at: int,
        look_every: int,
        events: Events,
        before: Callable[[int], None],
    ) -> None:
        self._checkpoints, self._config, self._events = checkpoints, config, events
        self._also_at, self._look_every, self._before = also_at, look_every, before
        self._next = self._in(60 * config.every_minutes)
        self._failures = 0

    def __enter__(self) -> Self:
        """Nothing is saved yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Waits for what was started.

        Raises:
          UserError: it cannot be written.
        """
        try:
            self._checkpoints.close()
        except SavingFailed as failed:
            if error is None:
                raise self._given_up(failed) from failed

    def __call__(self, info: StepInfo) -> None:
        """Saves if the step is due.

        Raises:
          UserError: saving has failed too often.
        """
        due = info.is_due(self._config.every_steps) or info.step == self._also_at or self._is_time(info)
        self._attempt(self._checkpoints.wait if due else self._checkpoints.check)
        if due:
            self._attempt(functools.partial(self._save, info))

    def save(self, info: StepInfo) -> None:
        """Saves whatever the number of the step, and returns when it is safe.

        Raises:
          UserError: it cannot be written.
        """
        try:
            self._save(info)
            self._checkpoints.wait()
        except SavingFailed as failed:
            raise self._given_up(failed) from failed

    def _save(self, info: StepInfo) -> None:
        self._before(info.step)
        self._checkpoints.save(info.state)
        self._next = self._in(60 * self._config.every_minutes)

    def _in(self, seconds: float) -> float:
        return time.monotonic() + seconds if seconds else float("inf")

    def _is_time(self, info: StepInfo) -> bool:
        if info.step % self._look_every or not (self._config.every_minutes or self._failures):
            return False
        return bool(max_across_processes(int(time.monotonic() >= self._next)))

    def _attempt(self, work: Callable[[], None]) -> None:
        try:
            work()
        except SavingFailed as failed:
            self._note(failed)

    def _note(self, failed: SavingFailed) -> None:
        self._failures += 1
        self._events.write("saving_failed", words=str(failed))
        if self._failures >= self._config.max_save_failures or jax.process_count() > 1:
            raise self._given_up(failed) from failed
        self._next = min(self._next, self._in(_PAUSE))
        self._events.say(
            f"note: {failed}; trying again ({self._failures} of {self._config.max_save_failures} failures)"
        )

    def _given_up(self, failed: SavingFailed) -> UserError:
        return UserError(
            f"--workdir: {failed}. {self._checkpoints.kept()} Make room, or make the folder writable, and give the "
            "same command again."
        )
