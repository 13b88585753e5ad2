"""Preparation of a run before its first step: settings and data are checked before the folder is written."""

import dataclasses
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rankclip_jax.checkpoints import workdir as workdirs
from rankclip_jax.checkpoints.lock import Lock
from rankclip_jax.checkpoints.manager import set_aside
from rankclip_jax.cli.console import say
from rankclip_jax.distributed import start_up
from rankclip_jax.distributed.mesh import make_mesh
from rankclip_jax.distributed.processes import is_primary_process
from rankclip_jax.evaluation.evaluator import Evaluator, tasks_of
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.monitoring.events import Events
from rankclip_jax.monitoring.timeline import Timeline
from rankclip_jax.monitoring.writers import check_writers
from rankclip_jax.settings.schema import import_parts
from rankclip_jax.training import data
from rankclip_jax.training.batches import make_tally
from rankclip_jax.training.experiment import build_experiment, check, resolve
from rankclip_jax.training.resumption import Start, choose_start, resolve_config, total_steps
from rankclip_jax.training.run import Run
from rankclip_jax.training.teachers import open_teachers


def prepare_config(config: ConfigDict, workdir: Path, mesh: Mesh | None) -> ConfigDict:
    """Returns the settings, completed and checked; see `loop.train`."""
    import_parts(config)
    config = resolve(config)
    check(config, mesh.size if mesh else jax.device_count())
    tasks_of(config)
    check_writers(config)
    workdirs.check_writable(workdir)
    return config


def prepare_run(
    config: ConfigDict, workdir: Path, mesh: Mesh | None, lock: Lock, timeline: Timeline, recipe: Path | None
) -> tuple[Run, Start]:
    """Returns the run and the step that it starts or resumes from, the same on all processes.

    Raises:
      UserError: the data or the folder are not usable, or the processes disagree.
    """
    source, validation = data.open_data(config)
    if (workdirs.saved_steps(workdir) or workdirs.misnamed(workdir)) and is_primary_process():
        lock.take()
    config, stored = resolve_config(workdir, config, len(source))
    start_up.check_same_on_all(data.shared_facts(config, source))
    if stored:
        data.check_unchanged(workdir, source)
    experiment = build_experiment(config, mesh or make_mesh(config.mesh), total_steps(config, len(source)), len(source))
    teachers = open_teachers(experiment.config, experiment.objective, experiment.model, source, experiment.layout)
    experiment = dataclasses.replace(experiment, teachers=teachers)
    evaluator = Evaluator(experiment.model, experiment.layout, config, experiment.objective, validation)
    start = choose_start(experiment, workdir, stored, len(source))
    tally, events = make_tally(config, source), Events(workdir)
    run = Run(experiment, workdir, source, evaluator, lock, events, timeline, tally, start.step, recipe)
    return run, start


def prepare_workdir(run: Run, start: Start) -> None:
    """Creates and locks the run's folder, and writes settings and data identity; called just before the first step."""
    if is_primary_process():
        run.workdir.mkdir(parents=True, exist_ok=True)
        run.lock.take()
        if not start.saved and workdirs.saved_steps(run.workdir):
            raise UserError(
                f"--workdir: another run started in {run.workdir} in the meantime. Run the command again to resume "
                "that run, or use another --workdir."
            )
    if start.aside:
        folder = set_aside(run.workdir, start.aside)
        if is_primary_process():
            say(f"note: unused checkpoints moved to {folder}")
    data.write_identity(run.workdir, run.source)
    workdirs.write_config(run.workdir, run.experiment.config, run.recipe)
