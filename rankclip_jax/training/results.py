"""Evaluation results of a run: written to files and logs, printed as a table, and drawn in the report's figure."""

from pathlib import Path
from typing import Protocol

from rankclip_jax.cli.console import say
from rankclip_jax.distributed.processes import is_primary_process
from rankclip_jax.evaluation import results
from rankclip_jax.evaluation.evaluator import Evaluated
from rankclip_jax.input_pipeline.object_stores import time_of
from rankclip_jax.monitoring import summary_figure
from rankclip_jax.monitoring.writers import Values
from rankclip_jax.training.hooks.logging import LoggingHook
from rankclip_jax.training.run import Outcome, Run
from rankclip_jax.training.state import TrainState


class Log(Protocol):
    """A log that receives results in addition to their file."""

    def write(self, step: int, values: Values) -> None:
        """Adds the values of a step."""
        ...

    def flush(self) -> None:
        """Flushes buffered values to disk."""
        ...


def write_results(evaluated: Evaluated, workdir: Path, step: int, log: Log) -> dict[str, float | None]:
    """Writes results to their file and to the logs; returns them by name."""
    values = {metric.name: metric.value for metric in evaluated.metrics}
    if is_primary_process():
        try:
            results.write(workdir, step, evaluated.metrics)
        except OSError as error:  # such as a full disk: the logs still get the results
            say(f"note: {results.path_of(workdir, step)} cannot be written ({error.strerror})")
    log.write(step, values)
    return values


def show(run: Run, state: TrainState, log: Log) -> dict[str, float | None] | None:
    """Makes a run's final evaluations, prints a table and draws the report's figure; returns the results by name."""
    evaluator, workdir, step = run.evaluator, run.workdir, int(state.step)
    if not evaluator:
        if is_primary_process():
            say("note: no validation data: skipping the evaluation and the report (see config.data.validation)")
        return None
    if is_primary_process() and evaluator.source is not None:
        say(f"evaluating on {evaluator.size:,} held-out pairs")
    evaluated = evaluator(state.variables_of(evaluator.weights))
    values = write_results(evaluated, workdir, step, log)
    if is_primary_process():
        log.flush()
        validation = evaluated.validation
        pairs = "" if validation is None else f" on {len(validation.index):,} held-out pairs"
        path = results.path_of(workdir, step)
        say(f"\nEvaluation{pairs} ({path}):\n{results.format_table(evaluated.metrics)}\n")
        if evaluator.source is not None and validation is not None:
            say(f"Report: {summary_figure.draw(workdir, evaluator.source, validation)}")
    return values


def are_there(run: Run) -> bool:
    """Returns whether the final results and figure exist, or there is nothing to evaluate."""
    results_file = results.path_of(run.workdir, run.experiment.total_steps)
    if not run.evaluator or run.evaluator.source is None:
        return not run.evaluator or results_file.exists()
    figure = run.workdir / summary_figure.NAME
    return results_file.exists() and figure.exists() and time_of(figure) >= time_of(results_file)


def finish(run: Run, state: TrainState) -> Outcome:
    """Completes a run without steps left: makes the evaluation or the report if it was interrupted."""
    step, final_results = int(state.step), None
    if not are_there(run):
        with LoggingHook(run) as logging:
            final_results = show(run, state, logging)
    if is_primary_process():
        say(
            f"This run is finished: {step} steps are done."
            + (f" Its results are in {run.workdir}/evaluation." if run.evaluator else "")
            + " To train longer, increase --config.train.steps if the learning rate schedule allows it, or start "
            f"another run from its weights: --config.init_from={run.workdir} --workdir=OTHER"
        )
    return Outcome(step, finished=True, results=final_results)
