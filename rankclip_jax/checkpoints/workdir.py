"""The folder of a run: its settings, and whether it may be used."""

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
_UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of one that is being written, or that a kill has cut off

RECIPE = "recipe.py"  # in a workdir: a copy of what the run was started with


def check_writable(workdir: Path) -> None:
    """Raises UserError where the folder, or the one that it would be made in, cannot be written; writes nothing."""
    try:
        files.check_writable(workdir)
    except OSError as error:
        raise UserError(f"--workdir: {workdir} cannot be written ({error}). Name another folder.") from error


def saved_steps(workdir: Path) -> list[int]:
    """The steps whose checkpoints are committed, in order; whether they are whole is not looked at."""
    return sorted(int(name) for name in _committed(workdir) if _STEP.fullmatch(name))


def misnamed(workdir: Path) -> list[str]:
    """Folders among the checkpoints with a name that no checkpoint has, such as ``0030`` or ``30-copy``."""
    return sorted(name for name in _committed(workdir) if not _STEP.fullmatch(name))


def _committed(workdir: Path) -> list[str]:
    """Names in the folder of the checkpoints but for those of saves under way, and for other programs' small files."""
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
    """Creates the folder if need be and writes ``config.json``, by one process; the others wait.

    Args:
      workdir: the run's folder.
      config: its settings.
      recipe: the file that they are from, copied for whoever needs the code that it adds; nothing runs the copy
        unless somebody names it on a command line.
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
    """Puts back what somebody removed or renamed while a run trains in the folder; whether anything was missing.

    Args:
      workdir: the run's folder.
      config: the run's settings.
      lock: the run's.
      step: that the run has come to.

    Raises:
      OSError: it cannot be written.
      UserError: another run is in the folder now.
    """
    stored = workdir / "config.json"
    if lock.is_held() and stored.exists() and (workdir / "checkpoints").is_dir():
        return False
    workdir.mkdir(parents=True, exist_ok=True)
    if lock.retake() and _is_anothers(workdir, config, step):
        raise UserError(
            f"--workdir: {workdir} was replaced by another run's folder while this one trained in it. Nothing was "
            "written there. Move this run's own folder back, or name it, and give the same command again."
        )
    if not stored.exists():
        _write(workdir, config)
    return True


def _is_anothers(workdir: Path, config: ConfigDict, step: int) -> bool:
    """Whether a folder holds what a run with these settings that has come to this step has not written."""
    if max(saved_steps(workdir), default=0) > step:
        return True
    if not (workdir / "config.json").exists():
        return False
    try:
        return bool(comparison.differences(read_config(workdir), schema.to_dict(config)))
    except UserError:
        return True


def read_config(workdir: Path) -> dict:
    """The settings of the run in the folder; those that came after it was begun have their defaults.

    Raises:
      UserError: there is no run, or its settings cannot be read or are not a run's.
    """
    return read_config_and_added(workdir)[0]


def read_config_and_added(workdir: Path) -> tuple[dict, set[str]]:
    """The settings of the run in the folder, and the names of those that it was begun without."""
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(
            f"--workdir: no run at {workdir} (no {path.name} there). "
            "Train one with: python -m rankclip_jax.train --config configs/demo.py"
        )
    advice = "Restore it, or use another --workdir."
    try:
        content = files.read_json(path)
        found = dict(schema.flatten(content))
    except UserError as error:
        raise UserError(f"--workdir: {error} {advice}") from error
    complete, flat = schema.base(), dict(found)
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
