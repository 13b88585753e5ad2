"""Evaluates a checkpoint of a run, prints a table and writes ``DIR/evaluation/<step>.json``.

python -m rankclip_jax.evaluate --workdir DIR [--step N] [--tasks validation,retrieval] [--weights average]
"""

from absl import flags

from rankclip_jax.command_line import entry

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
_STEP = flags.DEFINE_integer("step", None, "checkpoint to evaluate; the newest unless given")
_TASKS = flags.DEFINE_list("tasks", None, "which evaluations to run, by comma; all unless given")
_WEIGHTS = flags.DEFINE_enum("weights", None, ["latest", "average"], "which weights; as the run's settings say")


def main() -> None:
    """Evaluates what the flags name."""
    folder = entry.folder_of(_WORKDIR, "Name a run's folder, such as --workdir runs/demo.")
    from rankclip_jax.evaluation.checkpoint import (
        evaluate,
    )  # after the flags are read, since importing JAX takes a second

    evaluate(folder, _STEP.value, _TASKS.value, _WEIGHTS.value)


if __name__ == "__main__":
    entry.run(main)
