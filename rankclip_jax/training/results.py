"""What was measured of a run: written, shown and drawn."""

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
    """Where results go beside their file."""

    def write(self, step: int, values: Values) -> None:
        """Adds the numbers of a step."""
        ...

    def flush(self) -> None:
        """Makes sure that they are written."""
        ...


def write_results(evaluated: Evaluated, workdir: Path, step: int, log: Log) -> dict[str, float | None]:
    """Writes results to their file and to the logs; the results by name."""
    found = {metric.name: metric.value for metric in evaluated.metrics}
    if is_primary_process():
        try:
            results.write(workdir, step, evaluated.metrics)
        except OSError as error:  # a full disk, say: the logs have them, or are tried again
            say(f"note: {results.path_of(workdir, step)} cannot be written ({error.strerror})")
    log.write(step, found)
    return found


def show(run: Run, state: TrainState, log: Log) -> dict[str, float | None] | None:
    """The end of a run: all evaluations, a table, and the report's figure; the results by name."""
    evaluator, workdir, step = run.evaluator, run.workdir, int(state.step)
    if not evaluator:
        if is_primary_process():
            say("note: there are no validation data, so nothing is evaluated and no report is drawn")
        return None
    if is_primary_process() and evaluator.source is not None:
        say(f"evaluating on {evaluator.size:,} held-out pairs")
    evaluated = evaluator(state.variables_of(evaluator.weights))
    found = write_results(evaluated, workdir, step, log)
    if is_primary_process():
        log.flush()
        validation = evaluated.validation
        pairs = "" if validation is None else f" on {len(validation.index):,} held-out pairs"
        path = results.path_of(workdir, step)
        say(f"\nEvaluation{pairs} ({path}):\n{results.format_table(evaluated.metrics)}\n")
        if evaluator.source is not None and validation is not None:
            say(f"Report: {summary_figure.draw(workdir, evaluator.source, validation)}")
    return found


def are_there(run: Run) -> bool:
    """Whether the results and the figure of the run's last step are there, where there is something to evaluate on."""
    measured = results.path_of(run.workdir, run.experiment.total_steps)
    if not run.evaluator or run.evaluator.source is None:
        return not run.evaluator or measured.exists()
    drawn = run.workdir / summary_figure.NAME
    return measured.exists() and drawn.exists() and time_of(drawn) >= time_of(measured)


def finish(run: Run, state: TrainState) -> Outcome:
    """Nothing is left to train; what was interrupted after it, the evaluation or the report, is made now."""
    step, found = int(state.step), None
    if not are_there(run):
        with LoggingHook(run) as logging:
            found = show(run, state, logging)
    if is_primary_process():
        say(
            f"This run is finished: {step} steps are done."
            + (f" Its results are in {run.workdir}/evaluation." if run.evaluator else "")
            + " To train longer, raise --config.train.steps where the learning rate allows it, or start another run "
            f"from its weights: --config.init_from={run.workdir} --workdir=OTHER"
        )
    return Outcome(step, finished=True, results=found)
