"""Evaluates a model: a run on its own validation data, or any model on the datasets of a suite.

python -m rankclip_jax.evaluate --workdir DIR [--step N] [--tasks validation,retrieval] [--weights ema]
python -m rankclip_jax.evaluate --model PATH --suite FILE [--data DIR] [--output DIR] [--tasks cifar10,dtd]
python -m rankclip_jax.evaluate --workdir DIR --suite FILE ...

A run whose recipe adds an objective of its own: [--config DIR/recipe.py], for its validation loss.
"""

import sys

from absl import flags

from rankclip_jax.cli import entry
from rankclip_jax.cli.flags import define_recipe
from rankclip_jax.input_pipeline.errors import UserError

define_recipe()
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
_MODEL = flags.DEFINE_string("model", None, "weights to evaluate on a suite: whatever rankclip_jax.load reads")
_SUITE = flags.DEFINE_string(
    "suite", None, "file of datasets and tasks, or the name of one of ours, such as paper_zero_shot"
)
_DATA = flags.DEFINE_string("data", ".", "folder that the suite's datasets are in")
_OUTPUT = flags.DEFINE_string(
    "output", None, "folder of a suite's results; in the workdir, or evaluations/, unless given"
)
_STEP = flags.DEFINE_integer("step", None, "checkpoint to evaluate; the newest unless given")
_TASKS = flags.DEFINE_list("tasks", None, "which evaluations to run, by comma; all unless given")
_WEIGHTS = flags.DEFINE_enum("weights", None, ["latest", "ema"], "which weights; as the run's settings say")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "type of a suite's computation")


def main() -> None:
    """Evaluates what the flags name; exits with 1 where a dataset of a suite could not be measured."""
    if (_WORKDIR.value is None) == (_MODEL.value is None):
        raise UserError("name either a run, such as --workdir runs/demo, or with a --suite any --model PATH.")
    if _SUITE.value is None:
        if _MODEL.value is not None:
            raise UserError("--model: what it is to be evaluated on is not given. Name a --suite FILE.")
        folder = entry.path_flag(_WORKDIR, "Name a run's folder, such as --workdir runs/demo.")
        from rankclip_jax.evaluation import (
            run_evaluation,  # after the flags are read, since importing JAX takes a second
        )

        run_evaluation.evaluate(folder, _STEP.value, _TASKS.value, _WEIGHTS.value)
        return
    path = entry.path_flag(_WORKDIR if _MODEL.value is None else _MODEL, "Name what is to be evaluated.")
    suite = entry.local_path(_SUITE, "Name a file, such as --suite configs/suites/paper_zero_shot.json.")
    data = entry.local_path(_DATA, "Name the folder of the datasets.")
    from rankclip_jax import recipes

    entry.join_processes(recipes.base())
    from rankclip_jax.evaluation import suite_command

    complete = suite_command.evaluate(
        path,
        suite,
        data,
        None if _OUTPUT.value is None else entry.local_path(_OUTPUT, "Name a folder."),
        step=_STEP.value,
        tasks=_TASKS.value,
        weights=_WEIGHTS.value or "latest",
        dtype=_DTYPE.value,
    )
    sys.exit(not complete)


if __name__ == "__main__":
    entry.run(main, keeps_freed_memory=True)
