"""The workdir of a run: its settings, its checkpoints, and whether it can be used."""

import json
import re
from pathlib import Path

from ml_collections import ConfigDict

from rankclip_jax.checkpoints.lock import Lock
from rankclip_jax.distributed.processes import is_primary_process, wait_for_all
from rankclip_jax.input_pipeline import files, object_stores
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import printable
from rankclip_jax.settings import comparison, schema, validation

_STEP = re.compile("0|[1-9][0-9]*")  # the name of a checkpoint
_UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a checkpoint whose save is in progress or was killed

RECIPE = "recipe.py"  # in a workdir: a copy of the run's recipe


def check_writable(workdir: Path) -> None:
    """Raises UserError if the folder, or its nearest existing parent, is not writable; writes nothing."""
    try:
        files.check_writable(workdir)
    except OSError as error:
        raise UserError(f"--workdir: {workdir} cannot be written ({error}). Use another folder.") from error


def saved_steps(workdir: Path) -> list[int]:
    """Returns the steps of committed checkpoints in order, without verifying them."""
    return sorted(int(name) for name in _committed(workdir) if _STEP.fullmatch(name))


def misnamed(workdir: Path) -> list[str]:
    """Returns folders among the checkpoints whose name is not a step, such as ``0030`` or ``30-copy``."""
    return sorted(name for name in _committed(workdir) if not _STEP.fullmatch(name))


def _committed(workdir: Path) -> list[str]:
    """Returns the names in the checkpoint folder, without saves in progress and other programs' small files."""
    folder = workdir / "checkpoints"
    names = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if _UNFINISHED in path.name or path.name.startswith("."):
            continue
        if object_stores.is_remote(path) and not (path / "commit_success.txt").exists():
            continue
        if path.name.isdigit() or path.is_dir():
            names.append(path.name)
    return names


def write_config(workdir: Path, config: ConfigDict, recipe: Path | None = None) -> None:
    """Creates the workdir if it is missing and writes ``config.json``; one process writes, the others wait.

    Args:
      workdir: the run's folder.
      config: its settings.
      recipe: the recipe's file, copied for later use of the code that it adds; the copy only runs if a command line
        names it.
    """
    if is_primary_process():
        _write(workdir, config)
        if recipe is not None:
            files.write_atomically(workdir / RECIPE, recipe.read_bytes())
    wait_for_all("config.json")


def _write(workdir: Path, config: ConfigDict) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    content = json.dumps(schema.to_dict(config), indent=2)
    files.write_atomically(workdir / "config.json", f"{content}\n")


def restore(workdir: Path, config: ConfigDict, lock: Lock, step: int) -> bool:
    """Restores files that were removed or renamed while a run trains; returns whether any were missing.

    Args:
      workdir: the run's folder.
      config: the run's settings.
      lock: the run's lock.
      step: the run's current step.

    Raises:
      OSError: the workdir cannot be written.
      UserError: another run is in the folder now.
    """
    stored = workdir / "config.json"
    if lock.is_held() and stored.exists() and (workdir / "checkpoints").is_dir():
        return False
    workdir.mkdir(parents=True, exist_ok=True)
    if lock.retake() and _is_of_another_run(workdir, config, step):
        raise UserError(
            f"--workdir: {workdir} was replaced by another run's folder while this one trained in it. Nothing was "
            "written there. Move this run's own folder back, or use its new path, and run the same command again."
        )
    if not stored.exists():
        _write(workdir, config)
    return True


def _is_of_another_run(workdir: Path, config: ConfigDict, step: int) -> bool:
    """Whether the folder contains later steps or other settings than the run with these settings at this step."""
    if max(saved_steps(workdir), default=0) > step:
        return True
    if not (workdir / "config.json").exists():
        return False
    try:
        return bool(comparison.differences(read_config(workdir), schema.to_dict(config)))
    except UserError:
        return True


def read_config(workdir: Path) -> dict:
    """Returns the settings of the run in the workdir; settings added to the system since then have defaults.

    Raises:
      UserError: there is no run, or its settings are unreadable or invalid.
    """
    return read_config_and_added(workdir)[0]


def read_config_and_added(workdir: Path) -> tuple[dict, set[str]]:
    """Returns the settings of the run in the workdir, and the names of those that its ``config.json`` lacks."""
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(
            f"--workdir: no run at {workdir}: {path.name} is missing. "
            "Train one with: python -m rankclip_jax.train --config configs/demo.py"
        )
    advice = "Restore it, or use another --workdir."
    try:
        content = files.read_json(path)
        stored = dict(schema.flatten(content))
    except UserError as error:
        raise UserError(f"--workdir: {error} {advice}") from error
    complete, flat = schema.base(), dict(stored)
    unknown = validation.unknown_names(content)
    if not flat or unknown:
        names = ", ".join(printable(name, 60) for name in unknown[:5]) or "nothing"
        raise UserError(f"--workdir: {path}: expected the settings of configs/base.py; found {names}. {advice}")
    try:
        validation.check_sections(content)
        complete.update(content)
        complete = schema.schema().complete(complete)
        validation.check_values(complete)
    except (UserError, TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise UserError(f"--workdir: {path}: {printable(error, 600)} {advice}") from error
    return schema.to_dict(complete), schema.schema().settings(content).keys() - flat.keys()
