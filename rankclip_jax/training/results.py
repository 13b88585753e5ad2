"""What was measured of a run: written, shown and drawn."""

from pathlib import Path

from rankclip_jax.cli.console import say
from rankclip_jax.distributed.processes import is_primary_process
from rankclip_jax.evaluation import results
from rankclip_jax.evaluation.evaluator import Evaluated, Evaluator
from rankclip_jax.monitoring import summary_figure
from rankclip_jax.training.hooks.logging import Logging
from rankclip_jax.training.state import TrainState


def write_results(evaluated: Evaluated, workdir: Path, step: int, logging: Logging) -> dict[str, float | None]:
    """Writes results to their file and to the logs; the results by name."""
    found = {metric.name: metric.value for metric in evaluated.metrics}
    if is_primary_process():
        try:
            results.write(workdir, step, evaluated.metrics)
        except OSError as error:  # a full disk, say: the logs have them, or are tried again
            say(f"note: {results.path_of(workdir, step)} cannot be written ({error.strerror})")
    logging.write(step, found)
    return found


def show_results(
    evaluator: Evaluator | None, state: TrainState, workdir: Path, step: int, logging: Logging
) -> dict[str, float | None] | None:
    """The end of a run: all evaluations, a table, and the report's picture."""
    if evaluator is None:
        if is_primary_process():
            say("note: there are no validation data, so nothing is evaluated and no report is drawn")
        return None
    if is_primary_process():
        say(f"evaluating on {evaluator.size:,} held-out pairs")
    evaluated = evaluator(state.variables_of(evaluator.weights))
    found = write_results(evaluated, workdir, step, logging)
    if is_primary_process():
        logging.flush()
        drawn = summary_figure.draw(workdir, evaluator.source, evaluated.embedded)
        count, path = len(evaluated.embedded.index), results.path_of(workdir, step)
        say(f"\nEvaluation on {count:,} held-out pairs ({path}):\n{results.format_table(evaluated.metrics)}\n")
        say(f"Report: {drawn}")
    return found
