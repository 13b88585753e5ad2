"""Benchmarks one part of the system against a straightforward implementation; prints a table, can write JSON.

python -m rankclip_jax.benchmark loss [--batch_sizes 1024,2048] [--objective rankclip] [--topology h200:1x8] [--json F]
python -m rankclip_jax.benchmark objectives --config F [--batch_sizes 256,2048,8192] [--steps 10] [--json F]
python -m rankclip_jax.benchmark train --config F [--steps 10] [--ours_only] [--json F]
python -m rankclip_jax.benchmark input --config F [--pairs 1024] [--rate 10000] [--original LIST.csv] [--json F]
python -m rankclip_jax.benchmark checkpoint --config F [--steps 10] [--folder DIR] [--json F]
python -m rankclip_jax.benchmark evaluation --config F [--images 256] [--json F]
python -m rankclip_jax.benchmark search [--rows 1000000] [--folder DIR] [--json F]
python -m rankclip_jax.benchmark gpu [--minutes 8] [--output DIR]
"""

import json
from pathlib import Path

from absl import flags

from rankclip_jax.cli import entry
from rankclip_jax.cli.flags import define_config, given_recipe
from rankclip_jax.distributed import platform
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import write_atomically

define_config()
_BATCH_SIZES = flags.DEFINE_list(
    "batch_sizes",
    None,
    "loss, objectives: global batch sizes, separated by commas; default: 1024,2048 for loss, else the recipe's",
)
_EMBEDDING_SIZE = flags.DEFINE_integer(
    "embedding_size", 512, "loss: width of the embeddings", lower_bound=1, upper_bound=65_536
)
_OBJECTIVE = flags.DEFINE_string(
    "objective", "rankclip", "loss: name of an objective, as listed in rankclip_jax/objectives/__init__.py"
)
_VARIANT = flags.DEFINE_enum("variant", "exact", ["exact", "released"], "loss: variant of the ranking terms")
_CHUNK_SIZE = flags.DEFINE_integer(
    "chunk_size", 0, "loss: rows per chunk on each device; 0: chosen by a memory budget", lower_bound=0
)
_LIST_SIZE = flags.DEFINE_integer(
    "list_size", 0, "loss: columns that each row is ranked against; 0: all", lower_bound=0
)
_PRECISION = flags.DEFINE_string(
    "precision", "auto", "loss: precision of the similarities, as config.objective.precision"
)
_OURS_ONLY = flags.DEFINE_bool("ours_only", False, "loss, train: skip the baseline implementation")
_TOPOLOGY = flags.DEFINE_string(
    "topology", None, "loss: compile for these devices instead of running, such as h200:1x8"
)
_STEPS = flags.DEFINE_integer(
    "steps", 10, "train, objectives, checkpoint: steps per measurement", lower_bound=1, upper_bound=100_000
)
_PAIRS = flags.DEFINE_integer(
    "pairs", 1024, "input: pairs to read per measurement", lower_bound=1, upper_bound=10_000_000
)
_RATE = flags.DEFINE_float("rate", 10_000, "input: target rate, in pairs per second", lower_bound=1, upper_bound=1e12)
_ORIGINAL = flags.DEFINE_string("original", None, "input: CSV list for the PyTorch loader; default: the recipe's data")
_IMAGES = flags.DEFINE_integer(
    "images", 256, "evaluation: images to classify per measurement", lower_bound=1, upper_bound=1_000_000
)
_ROWS = flags.DEFINE_integer(
    "rows", 1_000_000, "search: pairs to search among", lower_bound=100, upper_bound=100_000_000
)
_FOLDER = flags.DEFINE_string("folder", ".", "checkpoint, search: existing folder for temporary files")
_MINUTES = flags.DEFINE_float("minutes", 8, "gpu: time budget in minutes", lower_bound=0.01, upper_bound=10_000)
_OUTPUT = flags.DEFINE_string("output", "benchmarks", "gpu: folder to write results.jsonl and results.md to")
_EXPERIMENT = flags.DEFINE_string("experiment", None, "gpu: run only this experiment, in the same process")
_JSON = flags.DEFINE_string("json", None, "file to write the rows to, besides printing them")


def main(subject: str) -> None:
    """Runs the benchmark of one subject."""
    output = None
    if _JSON.value is not None:
        output = entry.local_path(_JSON, "Use a file to write, such as --json rows.json.")
        entry.check_can_be_written("json", output)
    rows = _SUBJECTS[subject]()
    if output:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, json.dumps(rows, indent=2) + "\n")


def _loss() -> list[dict]:
    if _TOPOLOGY.value:
        platform.set_variables_to_plan()
    from rankclip_jax.benchmarks import loss  # after the flags are read, since importing JAX takes a second

    return loss.run(
        _BATCH_SIZES.value or ["1024", "2048"],
        objective=_OBJECTIVE.value,
        embedding_size=_EMBEDDING_SIZE.value,
        variant=_VARIANT.value,
        chunk_size=_CHUNK_SIZE.value,
        list_size=_LIST_SIZE.value,
        precision=_PRECISION.value,
        ours_only=_OURS_ONLY.value,
        topology_name=_TOPOLOGY.value,
    )


def _objectives() -> list[dict]:
    recipe = given_recipe()
    from rankclip_jax.benchmarks import objectives  # after the flags are read, since importing JAX takes a second
    from rankclip_jax.studies import definition

    study = definition.read(recipe.path)
    return objectives.run(recipe.config, study, _BATCH_SIZES.value or [], _STEPS.value)


def _train() -> list[dict]:
    config = given_recipe().config
    if not _OURS_ONLY.value:
        platform.set_variables_to_share()
    from rankclip_jax.benchmarks import train  # after the flags are read, since importing JAX takes a second

    return train.run(config, _STEPS.value, _OURS_ONLY.value)


def _input() -> list[dict]:
    config = given_recipe().config
    from rankclip_jax.benchmarks import (
        input as benchmark,  # after the flags are read, since importing JAX takes a second
    )

    original = (
        None
        if _ORIGINAL.value is None
        else entry.local_path(_ORIGINAL, "Use a CSV list, such as --original train.csv.")
    )
    return benchmark.run(config, original, _PAIRS.value, _RATE.value)


def _checkpoint() -> list[dict]:
    config, folder = given_recipe().config, _folder()
    from rankclip_jax.benchmarks import checkpoint  # after the flags are read, since importing JAX takes a second

    return checkpoint.run(config, folder, _STEPS.value)


def _search() -> list[dict]:
    folder = _folder()
    from rankclip_jax.benchmarks import search  # after the flags are read, since importing JAX takes a second

    return search.run(_ROWS.value, folder)


def _folder() -> Path:
    folder = entry.local_path(_FOLDER, "Use an existing folder, such as --folder .")
    if not folder.is_dir():
        raise UserError(f"--folder: no folder at {folder}. Use an existing folder.")
    entry.check_can_be_written("folder", folder / "anything")
    return folder


def _evaluation() -> list[dict]:
    config = given_recipe().config
    from rankclip_jax.benchmarks import evaluation  # after the flags are read, since importing JAX takes a second

    return evaluation.run(config, _IMAGES.value)


def _gpu() -> list[dict]:
    output = entry.local_path(_OUTPUT, "Use a folder to write results to, such as --output benchmarks.")
    entry.check_can_be_written("output", output / "results.jsonl")
    platform.set_variables_to_share()
    from rankclip_jax.benchmarks import gpu  # after the flags are read, since importing JAX takes a second

    if _EXPERIMENT.value is None:
        gpu.run(_MINUTES.value, output)
    elif _EXPERIMENT.value in gpu.EXPERIMENTS:
        gpu.run_experiment(_EXPERIMENT.value, output)
    else:
        names = ", ".join(gpu.EXPERIMENTS)
        raise UserError(f"--experiment: unknown value {_EXPERIMENT.value!r}; choose from {names}.")
    return []


_SUBJECTS = {
    "loss": _loss,
    "objectives": _objectives,
    "train": _train,
    "input": _input,
    "checkpoint": _checkpoint,
    "evaluation": _evaluation,
    "search": _search,
    "gpu": _gpu,
}

if __name__ == "__main__":
    entry.run(main, subjects=tuple(_SUBJECTS), keeps_freed_memory=True)
