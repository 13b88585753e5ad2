"""Evaluates during training, writes the results and adds them to the logs."""

from pathlib import Path

import jax

from rankclip_jax.evaluation.evaluator import Evaluator, write_results
from rankclip_jax.hooks.logs import Logs, print_progress
from rankclip_jax.train_state import Metrics, TrainState

_HEADLINES = ("validation/loss", "zero_shot/top_1", "retrieval/image_to_text/recall_1", "ranking/kendall_tau")


class Evaluating:
    """Every ``every_steps`` steps, but not at the last: that is the run's own end."""

    def __init__(self, evaluator: Evaluator, logs: Logs, workdir: Path, *, every_steps: int, total_steps: int) -> None:
        self._evaluator, self._logs, self._workdir = evaluator, logs, workdir
        self._every_steps, self._total_steps = every_steps, total_steps

    def __call__(self, step: int, state: TrainState, metrics: Metrics) -> None:
        if not self._every_steps or step % self._every_steps or step == self._total_steps:
            return
        results, _ = self._evaluator(state.variables)
        if jax.process_index() == 0:
            write_results(self._workdir, step, results)
            self._logs.write({"step": step} | results)
            shown = "  ".join(f"{name} {results[name]:.4f}" for name in _HEADLINES if name in results)
            print_progress(f"evaluation at step {step}: {shown}", last=True)
        self._logs.restart_clock(step)

    def close(self) -> None:
        pass
