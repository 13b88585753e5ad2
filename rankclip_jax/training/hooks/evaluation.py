"""Evaluates during training, writes the results and adds them to the logs."""

from collections.abc import Callable

from rankclip_jax.cli.console import say
from rankclip_jax.distributed.processes import is_primary_process
from rankclip_jax.training.hooks import Hook, StepInfo
from rankclip_jax.training.hooks.logging import LoggingHook
from rankclip_jax.training.results import write_results
from rankclip_jax.training.run import Run

_HEADLINES = ("validation/loss", "zero_shot/top_1", "retrieval/image_to_text/recall_1", "ranking/kendall_tau")


class EvaluationHook(Hook):
    """Evaluates each task at its own interval, except at the last step: the final evaluation covers all tasks.

    Args:
      run: the run.
      logging: logs the results with the step's metrics.
      check_interrupt: called before each batch; may raise to abort.
    """

    cause = "evaluation"

    def __init__(self, run: Run, logging: LoggingHook, check_interrupt: Callable[[], None]) -> None:
        self._run, self._logging, self._check_interrupt = run, logging, check_interrupt

    def after_step(self, info: StepInfo) -> None:
        """Evaluates the tasks that are due."""
        evaluator = self._run.evaluator
        due = evaluator.due(info.step) if info.step != info.last_step else []
        if not due:
            return
        evaluated = evaluator(info.state.variables_of(evaluator.weights), self._check_interrupt, due)
        results = write_results(evaluated, self._run.workdir, info.step, self._logging)
        shown = [
            f"{name} {value:.4f}" for name, value in results.items() if value is not None and name.endswith(_HEADLINES)
        ]
        if is_primary_process():
            say(f"evaluation at step {info.step}: {'  '.join(shown)}")
        self._logging.restart_clock(info.step)
