"""The policy for steps with a non-finite loss or gradient: the run stops, skips the step, or rolls back."""

import math
from collections.abc import Callable

import jax

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.objectives import Metrics
from rankclip_jax.training.batches import records_of_step
from rankclip_jax.training.hooks import Hook, StepInfo
from rankclip_jax.training.run import Run

_NAMED = 8  # records of a batch that a message names


class Rollback(Exception):
    """Raised to resume the run from its last checkpoint and skip the batch of a step."""

    def __init__(self, step: int) -> None:
        super().__init__(f"roll back and skip step {step}")
        self.step = step


class NonFiniteHook(Hook):
    """Checks the metric ``finite`` of all steps, at each step that is logged, saved or evaluated.

    With ``skip`` the step itself has already skipped the update; the hook only reports and records it.

    Args:
      run: the run.
      kept: returns a sentence that describes the existing checkpoints, for error messages.
    """

    cause = "step"  # it waits for the step

    def __init__(self, run: Run, kept: Callable[[], str]) -> None:
        config = run.experiment.config
        self._policy, self._limit = config.train.on_nonfinite, config.train.max_nonfinite_steps
        self._every_steps = [part.every_steps for part in (config.logging, config.checkpoint)]
        self._run, self._events, self._kept = run, run.events, kept
        self._unseen: list[tuple[int, Metrics]] = []

    def after_step(self, info: StepInfo) -> None:
        """Checks all unchecked steps if the step is due.

        Raises:
          UserError: the run stops.
          Rollback: the run must resume from its last checkpoint.
        """
        if info.metrics:
            self._unseen.append((info.step, info.metrics))
        is_due = info.step == info.first_step or any(info.is_due(every) for every in self._every_steps)
        if is_due or self._run.evaluator.due(info.step):
            self.check()

    def check(self) -> None:
        """Checks the steps that are not checked yet.

        Raises:
          UserError: the run stops.
          Rollback: the run must resume from its last checkpoint.
        """
        unseen, self._unseen = self._unseen, []
        flags = jax.device_get([metrics["finite"] for _, metrics in unseen])
        for finite, (step, metrics) in zip(flags, unseen, strict=True):
            if not finite:
                self._act(step, {"loss": 0.0} | {name: float(x) for name, x in jax.device_get(metrics).items()})

    def _act(self, step: int, values: dict[str, float]) -> None:
        terms = [name for name, value in values.items() if not math.isfinite(value)]
        problem = f"the {terms[0]} is {values[terms[0]]} at step {step}"
        records = records_of_step(self._run.experiment, self._run.source, step)
        before = self._events.count("not_finite")
        self._events.write("not_finite", step=step, terms=terms, records=records, policy=self._policy)
        if self._policy == "stop" or before + 1 > self._limit:
            raise UserError(self._explain(problem, step, before + 1))
        named = f"{', '.join(records[:_NAMED])}{' ...' if len(records) > _NAMED else ''}"
        self._events.say(f"note: {problem} (not finite: {', '.join(terms)}); skipping its batch: {named}")
        if self._policy == "rollback":
            raise Rollback(step)

    def _explain(self, problem: str, step: int, count: int) -> str:
        if self._policy != "stop":
            return (
                f"{problem}: {count} non-finite steps, more than config.train.max_nonfinite_steps={self._limit}. "
                f"{self._kept()} {self._events.path} lists the steps and their records."
            )
        if step == 1:
            return (
                f"{problem}, before the first update, so the cause is not the learning rate but the initial weights or "
                "the settings. Check config.init_from, if set, config.objective and config.model; "
                "--config.model.dtype=float32 has the highest precision."
            )
        return (
            f"{problem}: the run has diverged, and this state is not saved. {self._kept()} Try a new run with a lower "
            "--config.optimizer.learning_rate, a longer --config.optimizer.warmup_fraction, or "
            "--config.optimizer.gradient_clip=1.0; or continue without such batches: "
            "--config.train.on_nonfinite=rollback. "
            f"{self._events.path} lists the step's records."
        )
