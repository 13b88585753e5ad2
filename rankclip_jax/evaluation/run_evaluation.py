"""A saved checkpoint of a run, evaluated on the run's validation data."""

from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from rankclip_jax import input_pipeline, objectives
from rankclip_jax.checkpoints import workdir
from rankclip_jax.checkpoints.manager import choose_step, read_variables
from rankclip_jax.distributed import start_up
from rankclip_jax.distributed.mesh import make_mesh
from rankclip_jax.distributed.processes import is_primary_process
from rankclip_jax.distributed.sharding import Layout
from rankclip_jax.evaluation import results
from rankclip_jax.evaluation.evaluator import Evaluator
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import printable
from rankclip_jax.models import clip
from rankclip_jax.objectives import OBJECTIVES


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
    start_up.start(config.processes)
    step = choose_step(folder, step)
    layout = Layout(make_mesh(config.mesh), tuple(map(tuple, config.mesh.overrides)))
    model = clip.build(config.model)
    objective = objectives.build(config.objective) if config.objective.name in OBJECTIVES else None
    image_size = model.preset.vision.image_size
    source = None
    if input_pipeline.has_validation(config.data):
        source = input_pipeline.open_source(config.data, "validation", image_size=image_size, seed=config.seed)
    evaluator = Evaluator(model, layout, config, objective, source, tasks)
    if not evaluator:
        raise UserError(f"config.data.validation: the run in {folder} has no validation data.")
    like = objectives.abstract_variables(objective, model)
    variables = read_variables(folder, layout, like, step, weights or config.evaluation.weights)
    evaluated = evaluator(variables)
    if is_primary_process():
        path = results.write(folder, step, evaluated.metrics)
        table = results.format_table(evaluated.metrics)
        pairs = "" if evaluated.validation is None else f", {len(evaluated.validation.index):,} pairs"
        print(f"{printable(folder)}, step {step}{pairs} ({printable(path)}):\n{table}")
