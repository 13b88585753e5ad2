"""The evaluation of a run's checkpoint on its validation data and tasks."""

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
    """Evaluates a checkpoint, merges the metrics into the results of its step, and prints a table.

    Args:
      folder: the run's folder.
      step: the checkpoint's step; None: the newest.
      tasks: see `Evaluator`.
      weights: ``"latest"`` or ``"ema"``; None: the run's setting.

    Raises:
      UserError: the run, checkpoint, task or EMA does not exist, or the run has no validation data.
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
        raise UserError(
            f"config.data.validation: the run in {folder} has no validation data and no config.evaluation.tasks. Use a "
            "suite instead: --suite=FILE."
        )
    like = objectives.abstract_variables(objective, model)
    variables = read_variables(folder, layout, like, step, weights or config.evaluation.weights)
    evaluated = evaluator(variables)
    if is_primary_process():
        path = results.write(folder, step, evaluated.metrics)
        table = results.format_table(evaluated.metrics)
        pairs = "" if evaluated.validation is None else f", {len(evaluated.validation.index):,} pairs"
        print(f"{printable(folder)}, step {step}{pairs} ({printable(path)}):\n{table}")
