"""Evaluates a run on its own validation data, or any model on the datasets of a suite.

python -m rankclip_jax.evaluate --workdir DIR [--step N] [--tasks validation,retrieval] [--weights ema]
python -m rankclip_jax.evaluate --model PATH --suite FILE [--data DIR] [--output DIR] [--tasks cifar10,dtd]
python -m rankclip_jax.evaluate --workdir DIR --suite FILE ...

If the recipe of the run adds an objective, use --config DIR/recipe.py to compute its validation loss.
"""

import sys

from absl import flags

from rankclip_jax.cli import entry
from rankclip_jax.cli.flags import define_recipe
from rankclip_jax.input_pipeline.errors import UserError

define_recipe()
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
_MODEL = flags.DEFINE_string("model", None, "model to evaluate on a suite: any path that rankclip_jax.load reads")
_SUITE = flags.DEFINE_string(
    "suite", None, "JSON file of datasets and tasks, or the name of a built-in suite, such as paper_zero_shot"
)
_DATA = flags.DEFINE_string("data", ".", "folder with the datasets of the suite")
_OUTPUT = flags.DEFINE_string(
    "output", None, "folder for the results of a suite; default: in the workdir, or evaluations/ for a --model"
)
_STEP = flags.DEFINE_integer("step", None, "step of the checkpoint to evaluate; default: the newest")
_TASKS = flags.DEFINE_list("tasks", None, "evaluations to run, separated by commas; default: all")
_WEIGHTS = flags.DEFINE_enum(
    "weights", None, ["latest", "ema"], "which weights to evaluate; default: as in the run's settings"
)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "dtype of the computation for a suite")


def main() -> None:
    """Evaluates what the flags name; exits with 1 if a dataset of the suite could not be evaluated."""
    if (_WORKDIR.value is None) == (_MODEL.value is None):
        raise UserError(
            "--workdir, --model: expected exactly one. Use --workdir runs/demo, or --model PATH with --suite FILE."
        )
    if _SUITE.value is None:
        if _MODEL.value is not None:
            raise UserError("--model: needs a suite, but --suite is not given. Use --suite FILE.")
        folder = entry.path_flag(_WORKDIR, "Use the folder of a run, such as --workdir runs/demo.")
        from rankclip_jax.evaluation import (
            run_evaluation,  # after the flags are read, since importing JAX takes a second
        )

        run_evaluation.evaluate(folder, _STEP.value, _TASKS.value, _WEIGHTS.value)
        return
    path = entry.path_flag(_WORKDIR if _MODEL.value is None else _MODEL, "Use --workdir runs/demo or --model PATH.")
    suite = entry.local_path(_SUITE, "Use a suite file, such as --suite configs/suites/paper_zero_shot.json.")
    data = entry.local_path(_DATA, "Use the folder of the datasets, such as --data data.")
    from rankclip_jax import recipes

    entry.join_processes(recipes.base())
    from rankclip_jax.evaluation import suite_command

    complete = suite_command.evaluate(
        path,
        suite,
        data,
        None if _OUTPUT.value is None else entry.local_path(_OUTPUT, "Use a folder, such as --output results."),
        step=_STEP.value,
        tasks=_TASKS.value,
        weights=_WEIGHTS.value or "latest",
        dtype=_DTYPE.value,
    )
    sys.exit(not complete)


if __name__ == "__main__":
    entry.run(main, keeps_freed_memory=True)
