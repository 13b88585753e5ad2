"""Trains one run of a study, and appends its result to the study's file."""

import contextlib
import datetime
import hashlib
import os
import shutil
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

import rankclip_jax
from rankclip_jax.checkpoints.lock import Lock
from rankclip_jax.evaluation import results as evaluation_results
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import printable
from rankclip_jax.interop import exporting, loading
from rankclip_jax.monitoring import goodput
from rankclip_jax.monitoring.writers import read_lines
from rankclip_jax.studies import results, snapshot
from rankclip_jax.studies.definition import Study, with_settings
from rankclip_jax.studies.plan import Run, digest
from rankclip_jax.studies.results import Result
from rankclip_jax.training import data
from rankclip_jax.training.loop import train

PARENT = "RANKCLIP_JAX_STUDY"  # environment variable: the process ID of the study that starts a run
TAKEN = 75  # exit status: another process does this run (EX_TEMPFAIL of sysexits.h)
_NOT_KEPT = ("finite", "unreadable", "learning_rate", "pairs_per_second", "step_seconds", "input_seconds")


def stop_with_parent() -> None:
    """Sends this process SIGTERM, on which it saves, once the study that started it has ended for any reason."""
    parent = int(os.environ.get(PARENT, os.getppid()))

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


class Taken(Exception):
    """Another process does this run."""


def execute(study: Study, config: ConfigDict, recipe: Path, folder: Path, run: Run, keep_checkpoints: bool) -> int:
    """Trains a run, or resumes it, and appends its result; returns the exit status.

    Args:
      study: the study.
      config: the settings of its recipe.
      recipe: the recipe's file.
      folder: the study's folder.
      run: the run.
      keep_checkpoints: whether to keep its checkpoints once its result is there.
    """
    try:
        if run.teacher and not weights_of(folder, run.teacher).exists():  # its result may come from another machine
            with _claimed(folder, run.teacher):
                if stopped := _train(study, config, recipe, folder, run.teacher):
                    return stopped
                _export(folder, run.teacher)
        with _claimed(folder, run):
            present = results.read(folder / results.NAME).get(run.name)
            if present and present.digest == digest(run, config):
                return 0
            workdir = folder / "runs" / run.name
            failed = ""
            try:
                if stopped := _train(study, config, recipe, folder, run):
                    return stopped
            except UserError as error:
                if not (workdir / data.NAME).exists():  # nothing was trained: settings, data or the folder are bad
                    raise
                failed = printable(error, 1000)
            results.append(folder / results.NAME, _result(study, config, run, workdir, failed))
            if run.seed == 1 and any(arm.teacher == run.arm for arm in study.arms.values()):
                _export(folder, run)
            if not keep_checkpoints:
                shutil.rmtree(workdir / "checkpoints", ignore_errors=True)
    except Taken:
        return TAKEN
    return 0


@contextlib.contextmanager
def _claimed(folder: Path, run: Run) -> Iterator[None]:
    """A context in which no other process does the run.

    Raises:
      Taken: another process does it.
    """
    claim = folder / "claims" / run.name
    claim.mkdir(parents=True, exist_ok=True)
    with Lock(claim) as lock:
        try:
            lock.take()
        except UserError as error:
            raise Taken from error
        yield


def _train(study: Study, config: ConfigDict, recipe: Path, folder: Path, run: Run) -> int:
    """Trains a run or resumes it; returns the exit status of a stop by a signal, or 0."""
    outcome = train(settings_of(study, config, run, folder), folder / "runs" / run.name, recipe=recipe)
    return 0 if outcome.signal_number is None else 128 + outcome.signal_number


def weights_of(folder: Path, teacher: Run) -> Path:
    """Returns the path of a teacher's weights, in the layout of open_clip."""
    return folder / "runs" / teacher.name / "weights" / "open_clip.safetensors"


def _export(folder: Path, teacher: Run) -> None:
    path = weights_of(folder, teacher)
    with tempfile.TemporaryDirectory(dir=path.parents[1]) as temporary:
        new = Path(temporary) / "weights"
        new.mkdir()
        exporting.write(new / path.name, path, "open_clip", loading.read(path.parents[1]))
        new.rename(path.parent)


def settings_of(study: Study, config: ConfigDict, run: Run, folder: Path) -> ConfigDict:
    """Returns the complete settings of a run."""
    settings = with_settings(config, {**run.settings, "seed": run.seed})
    with settings.unlocked():
        for task in study.report_tasks if run.is_trial else ():
            del settings.evaluation.tasks[task]
        if run.teacher:
            settings.objective.teacher = str(weights_of(folder, run.teacher))
    return settings


def _result(study: Study, config: ConfigDict, run: Run, workdir: Path, failed: str) -> Result:
    lines = read_lines(workdir / "metrics.jsonl")
    evaluations = sorted(int(path.stem) for path in (workdir / "evaluation").glob("*.json") if path.stem.isdecimal())
    metrics = (
        {}
        if failed or not evaluations
        else evaluation_results.read(evaluation_results.path_of(workdir, evaluations[-1]))
    )
    samples = evaluation_results.samples(workdir, evaluations[-1]) if metrics else {}
    picture = snapshot.take(workdir, settings_of(study, config, run, workdir)) if metrics and run.seed == 1 else None
    reported = {name for names in study.report.values() for name in names}
    times = [line["step_seconds"] for line in lines if line.get("step_seconds")]
    return Result(
        run=run.name,
        digest=digest(run, config),
        data=hashlib.sha256((workdir / data.NAME).read_bytes()).hexdigest()[:16],
        settings=dict(run.settings),
        metrics=metrics,
        history=_history(lines),
        arrays={name: values for name, values in samples.items() if name in reported}
        | (picture.arrays() if picture else {}),
        captions=picture.captions if picture else [],
        seconds=round(sum(seconds for cause, seconds in goodput.seconds_of(workdir).items() if cause != "down"), 1),
        step_seconds=round(statistics.median(times), 4) if times else 0.0,
        failed=failed,
        provenance={
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
            "version": rankclip_jax.__version__,
            "jax": jax.__version__,
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        },
    )


def _history(lines: list[dict]) -> dict[str, list[tuple[int, float]]]:
    """Returns the logged values of each name, rounded to five significant digits."""
    history: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name != "step" and name not in _NOT_KEPT and value is not None and np.isfinite(value):
                history.setdefault(name, []).append((line["step"], float(f"{value:.5g}")))
    return {name: points for name, points in history.items() if len(points) > 1}
