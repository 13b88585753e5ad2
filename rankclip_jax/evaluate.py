"""Evaluates a checkpoint of a run, prints a table and writes ``DIR/evaluation/<step>.json``.

python -m rankclip_jax.evaluate --workdir DIR [--step N] [--tasks validation,retrieval]
"""

from pathlib import Path

from absl import flags

from input_pipeline.errors import UserError
from rankclip_jax import command_line

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
_STEP = flags.DEFINE_integer("step", None, "checkpoint to evaluate; the newest unless given")
_TASKS = flags.DEFINE_list("tasks", None, "which evaluations to run, by comma; all unless given")


def main() -> None:
    if _WORKDIR.value is None:
        raise UserError("--workdir: not given. Name a run's folder, such as --workdir runs/demo.")
    import jax  # after the flags are read, since importing JAX takes a second
    from ml_collections import ConfigDict

    import input_pipeline
    from rankclip_jax import train_state, workdir
    from rankclip_jax.checkpoints import Checkpoints
    from rankclip_jax.evaluation.evaluator import Evaluator, format_table, write_results
    from rankclip_jax.models import clip
    from rankclip_jax.parallel.mesh import make_mesh

    folder = Path(_WORKDIR.value)
    config = ConfigDict(workdir.read_config(folder))
    checkpoints = Checkpoints(folder)
    step = checkpoints.latest_step() if _STEP.value is None else _STEP.value
    if step is None:
        raise UserError(f"--workdir: {folder} has no checkpoint yet.")
    model, mesh = clip.build(config.model), make_mesh()
    image_size = model.preset.vision.image_size
    if not input_pipeline.has_validation(config.data):
        raise UserError(f"config.data.validation: the run in {folder} has no validation data.")
    source = input_pipeline.open_source(config.data, "validation", image_size=image_size, seed=config.seed)
    evaluator = Evaluator(model, config, source, mesh, _TASKS.value)
    state = checkpoints.restore(train_state.describe(model, config, mesh), step)
    results, encoded = evaluator(state.variables)
    if jax.process_index() == 0:
        path = write_results(folder, step, results)
        print(f"{folder}, step {step}, {len(encoded.index):,} pairs ({path}):\n{format_table(results)}")


if __name__ == "__main__":
    command_line.run(main)
