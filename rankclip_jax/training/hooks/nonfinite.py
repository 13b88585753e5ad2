"""What becomes of a step whose loss or gradients are not finite: the run stops, skips it, or rolls back."""

import math
from collections.abc import Callable

import jax

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.objectives import Metrics
from rankclip_jax.training.batches import records_of_step
from rankclip_jax.training.hooks import Hook, StepInfo
from rankclip_jax.training.run import Run

_NAMED = 8  # records of a batch


class Rollback(Exception):
    """The run is to go on from its last checkpoint, without the batch of a step."""

    def __init__(self, step: int) -> None:
        super().__init__(f"back, to leave out step {step}")
        self.step = step


class NonFiniteHook(Hook):
    """Looks at the flags of all steps, the computed ``finite``, at each step that is logged, saved or evaluated.

    Under ``skip`` the step has left out the update by itself already; what happened is said and recorded.

    Args:
      run: the run.
      kept: says what there is to go back to.
    """

    cause = "step"  # it waits for the step

    def __init__(self, run: Run, kept: Callable[[], str]) -> None:
        config = run.experiment.config
        self._policy, self._limit = config.train.on_nonfinite, config.train.max_nonfinite_steps
        self._every_steps = [part.every_steps for part in (config.logging, config.checkpoint)]
        self._run, self._events, self._kept = run, run.events, kept
        self._unseen: list[tuple[int, Metrics]] = []

    def after_step(self, info: StepInfo) -> None:
        """Looks if the step is due.

        Raises:
          UserError: the run stops.
          Rollback: the run is to resume from its last checkpoint.
        """
        if info.metrics:
            self._unseen.append((info.step, info.metrics))
        is_due = info.step == info.first_step or any(info.is_due(every) for every in self._every_steps)
        if is_due or self._run.evaluator.due(info.step):
            self.check()

    def check(self) -> None:
        """Looks at the steps that were not looked at.

        Raises:
          UserError: the run stops.
          Rollback: the run is to resume from its last checkpoint.
        """
        unseen, self._unseen = self._unseen, []
        flags = jax.device_get([metrics["finite"] for _, metrics in unseen])
        for finite, (step, metrics) in zip(flags, unseen, strict=True):
            if not finite:
                self._act(step, {"loss": 0.0} | {name: float(x) for name, x in jax.device_get(metrics).items()})

    def _act(self, step: int, values: dict[str, float]) -> None:
        terms = [name for name, value in values.items() if not math.isfinite(value)]
        found = f"the {terms[0]} is {values[terms[0]]} at step {step}"
        records = records_of_step(self._run.experiment, self._run.source, step)
        before = self._events.count("not_finite")
        self._events.write("not_finite", step=step, terms=terms, records=records, policy=self._policy)
        if self._policy == "stop" or before + 1 > self._limit:
            raise UserError(self._explain(found, step, before + 1))
        named = f"{', '.join(records[:_NAMED])}{' ...' if len(records) > _NAMED else ''}"
        self._events.say(f"note: {found} (not finite: {', '.join(terms)}); its batch is left out: {named}")
        if self._policy == "rollback":
            raise Rollback(step)

    def _explain(self, found: str, step: int, count: int) -> str:
        if self._policy != "stop":
            return (
                f"{found}: that makes {count} such steps, more than config.train.max_nonfinite_steps={self._limit}. "
                f"{self._kept()} The steps and their records are in {self._events.path}."
            )
        if step == 1:
            return (
                f"{found}, before anything was learned: the learning rate is not to blame, but what the run starts "
                "with. Look at config.init_from, if it is given, and at config.objective and config.model; "
                "--config.model.dtype=float32 has the widest range."
            )
        return (
            f"{found}: the run has diverged and is not saved. {self._kept()} Try a new run with a lower "
            "--config.optimizer.learning_rate, a longer --config.optimizer.warmup_fraction, or with "
            "--config.optimizer.gradient_clip=1.0; or leave such batches out: --config.train.on_nonfinite=rollback. "
            f"The step's records are in {self._events.path}."
        )
