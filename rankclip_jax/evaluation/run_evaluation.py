"""A saved checkpoint of a run, evaluated on the run's validation data."""

from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from rankclip_jax import input_pipeline
from rankclip_jax.checkpoints import workdir
from rankclip_jax.checkpoints.manager import choose_step, read_variables
from rankclip_jax.distributed import start_up
from rankclip_jax.distributed.mesh import make_mesh
from rankclip_jax.distributed.processes import is_primary_process
from rankclip_jax.evaluation import results
from rankclip_jax.evaluation.evaluator import Evaluator
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import printable
from rankclip_jax.settings import resolution as settings
from rankclip_jax.training.experiment import build_experiment


def evaluate(folder: Path, step: int | None, tasks: Sequence[str] | None, weights: str | None) -> None:
    """Evaluates, adds to the results of the step, and prints a table.

    Args:
      folder: of the run.
      step: which checkpoint; None: the newest.
      tasks: see `Evaluator`.
      weights: ``"latest"`` or their moving ``"ema"``; None: as the run's settings say.

    Raises:
      UserError: there is no such run, checkpoint, task or average, or the run has no validation data.
    """
    config = ConfigDict(workdir.read_config(folder))
    settings.check_choices(config, "model")
    start_up.start(config.processes)
    step = choose_step(folder, step)
    if not input_pipeline.has_validation(config.data):
        raise UserError(f"config.data.validation: the run in {folder} has no validation data.")
    image_size = settings.image_size(config)
    source = input_pipeline.open_source(config.data, "validation", image_size=image_size, seed=config.seed)
    experiment = build_experiment(config, make_mesh(config.mesh))
    evaluator = Evaluator(experiment, source, tasks)
    evaluated = evaluator(read_variables(folder, experiment, step, weights or config.evaluation.weights))
    if is_primary_process():
        path = results.write(folder, step, evaluated.metrics)
        table = results.format_table(evaluated.metrics)
        print(
            f"{printable(folder)}, step {step}, {len(evaluated.embedded.index):,} pairs ({printable(path)}):\n{table}"
        )
