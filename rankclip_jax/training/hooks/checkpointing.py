"""Saves checkpoints at an interval of steps or minutes and at the end, and retries failed saves."""

import functools
import time
from collections.abc import Callable
from types import TracebackType

import jax

from rankclip_jax.checkpoints import workdir as workdirs
from rankclip_jax.checkpoints.manager import Checkpoints, SavingFailed
from rankclip_jax.distributed.processes import is_primary_process, max_across_processes
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.training import schedule
from rankclip_jax.training.hooks import Hook, StepInfo
from rankclip_jax.training.run import Run
from rankclip_jax.training.state import abstract_state

_PAUSE = 60  # seconds before a failed save is retried


class CheckpointHook(Hook):
    """Saves at the configured interval, at the last step, and before a decay, so that the run can be extended.

    Args:
      run: the run.
      flush: called before each save, such as to flush the logs up to the saved step.
    """

    cause = "checkpoint"

    def __init__(self, run: Run, flush: Callable[[], None]) -> None:
        experiment = run.experiment
        decay = schedule.decay_start(experiment.config.optimizer, experiment.total_steps)
        kept = [decay] if decay < experiment.total_steps else []
        self.checkpoints = Checkpoints(run.workdir, experiment.config, abstract_state(experiment), always_kept=kept)
        self._run, self._config, self._events = run, experiment.config.checkpoint, run.events
        self._also_at, self._flush = decay, flush
        self._look_every = experiment.config.logging.every_steps  # steps at which processes agree whether a save is due
        self._next = self._in(60 * self._config.every_minutes)
        self._failures = 0

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Waits for pending saves.

        Raises:
          UserError: a checkpoint cannot be written.
        """
        try:
            self.checkpoints.close()
        except SavingFailed as failed:
            if error is None:
                raise self._given_up(failed) from failed

    def after_step(self, info: StepInfo) -> None:
        """Saves if the step is due.

        Raises:
          UserError: saving has failed too often.
        """
        due = info.is_due(self._config.every_steps) or info.step == self._also_at or self._is_time(info)
        self._attempt(self.checkpoints.wait if due else self.checkpoints.check)
        if due:
            self._attempt(functools.partial(self._save, info))

    def save(self, info: StepInfo) -> None:
        """Saves the state now, and returns when it is written.

        Raises:
          UserError: the checkpoint cannot be written.
        """
        try:
            self._save(info)
            self.checkpoints.wait()
        except SavingFailed as failed:
            raise self._given_up(failed) from failed

    def _save(self, info: StepInfo) -> None:
        self._restore_folder(info.step)
        self._flush()
        self.checkpoints.save(info.state)
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
        self._events.say(f"note: {failed}; retrying ({self._failures} of {self._config.max_save_failures} failures)")

    def _given_up(self, failed: SavingFailed) -> UserError:
        return UserError(
            f"--workdir: {failed}. {self.checkpoints.kept()} Free disk space, or make the folder writable, and run the "
            "same command again."
        )

    def _restore_folder(self, step: int) -> None:
        """Restores files of the run's folder that were removed or renamed during training; called on all processes.

        Raises:
          UserError: the folder now holds another run.
        """
        workdir, restored, replaced = self._run.workdir, False, None
        if is_primary_process():
            try:
                restored = workdirs.restore(workdir, self._run.experiment.config, self._run.lock, step)
            except UserError as error:
                replaced = error
            except OSError:  # the save that follows will report it
                pass
        match max_across_processes(2 if replaced else int(restored)):
            case 2:
                raise replaced or UserError(
                    f"--workdir: {workdir} was replaced by another run during training. Use another --workdir."
                )
            case 1:
                self.checkpoints.reopen()
                self._events.write("workdir_restored", step=step)
                self._events.say(
                    f"note: {workdir} or files in it were removed or renamed during training. The folder was created "
                    "again, and training continues; earlier checkpoints and logs are lost unless they were moved."
                )
