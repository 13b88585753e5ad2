"""Runs a study: objectives, settings and seeds on equal terms, as a list of ordinary runs, with tables and a page.

python -m rankclip_jax.study --config configs/studies/icons.py [--workdir DIR] [--jobs 2] [--minutes 12]
"""

import os
import sys
from pathlib import Path

from absl import flags

from rankclip_jax.cli import entry
from rankclip_jax.cli.flags import define_config, given_recipe
from rankclip_jax.input_pipeline.errors import UserError

define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the study; default: runs/<recipe's name>")
_JOBS = flags.DEFINE_integer("jobs", 1, "runs at a time; each gets its share of the cores or GPUs", lower_bound=1)
_MINUTES = flags.DEFINE_float(
    "minutes", None, "stop after that time; the most informative runs come first", lower_bound=0
)
_KEEP = flags.DEFINE_bool("keep_checkpoints", False, "keep the checkpoints of finished runs")
_RUN = flags.DEFINE_string("run", None, "do only this run, such as clip/seed1")

_NAMED = 5  # runs that an error names


def main() -> None:
    """Does the runs that have no result yet, and writes the tables and the page."""
    recipe = given_recipe()
    default = f"runs/{recipe.path.stem}"
    workdir = (
        Path(default)
        if _WORKDIR.value is None
        else entry.local_path(_WORKDIR, f"Omit the flag for the default, {default}.")
    )
    # After the flags, since importing JAX takes long.
    from rankclip_jax.studies import definition, page, scheduler, tables, worker

    study = definition.read(recipe.path)
    progress = scheduler.Progress(study, recipe.config, workdir)
    if _RUN.value is not None:
        found = [run for run in progress.runs if run is not None and run.name == _RUN.value]
        if not found:
            names = ", ".join(run.name for run in progress.ready_runs()[:_NAMED]) or "none: all are finished"
            raise UserError(
                f"--run: {_RUN.value!r} is unknown, or depends on runs without a result. Runs that can start now: "
                f"{names}."
            )
        if worker.PARENT in os.environ:
            worker.stop_with_parent()
        sys.exit(worker.execute(study, recipe.config, recipe.path, workdir, found[0], _KEEP.value))
    workdir.mkdir(parents=True, exist_ok=True)
    costs = tables.read_costs(workdir, study, recipe.config.train.global_batch_size)
    seconds = float("inf") if _MINUTES.value is None else 60 * _MINUTES.value
    command, stopped = [sys.executable, "-m", "rankclip_jax.study", *sys.argv[1:]], None
    try:
        scheduler.run(progress, command, _JOBS.value, seconds)
    except scheduler.Stop as stop:
        stopped = stop.number
    written = page.write(progress, costs, workdir)
    print(f"\n{page.text(progress, costs)}\n\n{progress.line(_JOBS.value)}\nPage: {written}", flush=True)
    if stopped is not None:
        print("Stopped; run the same command to resume.", flush=True)
        sys.exit(128 + stopped)


if __name__ == "__main__":
    entry.run(main, keeps_freed_memory=True)
