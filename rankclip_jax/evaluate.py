"""Evaluates a checkpoint of a run, prints a table and writes ``DIR/evaluation/<step>.json``.

python -m rankclip_jax.evaluate --workdir DIR [--step N] [--tasks validation,retrieval] [--weights average]
"""

from absl import flags

from input_pipeline.errors import UserError
from rankclip_jax.command_line import entry

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
_STEP = flags.DEFINE_integer("step", None, "checkpoint to evaluate; the newest unless given")
_TASKS = flags.DEFINE_list("tasks", None, "which evaluations to run, by comma; all unless given")
_WEIGHTS = flags.DEFINE_enum("weights", None, ["latest", "average"], "which weights; as the run's settings say")


def main() -> None:
    """Evaluates what the flags name."""
    folder = entry.folder_of(_WORKDIR, "Name a run's folder, such as --workdir runs/demo.")
    from ml_collections import ConfigDict  # after the flags are read, since importing JAX takes a second

    import input_pipeline
    from rankclip_jax.evaluation import results
    from rankclip_jax.evaluation.evaluator import Evaluator
    from rankclip_jax.parallel.layout import make_mesh
    from rankclip_jax.parallel.processes import is_first
    from rankclip_jax.training import settings, workdir
    from rankclip_jax.training.assembly import assemble
    from rankclip_jax.training.checkpoints import choose_step, read_variables

    config = ConfigDict(workdir.read_config(folder))
    step = choose_step(folder, _STEP.value)
    if not input_pipeline.has_validation(config.data):
        raise UserError(f"config.data.validation: the run in {folder} has no validation data.")
    image_size = settings.image_size(config)
    source = input_pipeline.open_source(config.data, "validation", image_size=image_size, seed=config.seed)
    assembly = assemble(config, make_mesh())
    evaluator = Evaluator(assembly, source, _TASKS.value)
    weights = _WEIGHTS.value or config.evaluation.weights
    evaluated = evaluator(read_variables(folder, assembly, step, weights))
    if is_first():
        path = results.write(folder, step, evaluated.metrics)
        table = results.format_table(evaluated.metrics)
        print(f"{folder}, step {step}, {len(evaluated.embedded.index):,} pairs ({path}):\n{table}")


if __name__ == "__main__":
    entry.run(main)
