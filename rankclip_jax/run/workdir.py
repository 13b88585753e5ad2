"""The folder of a run: its settings, and whether it may be used."""

import json
import logging
from pathlib import Path

import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from input_pipeline import files
from input_pipeline.errors import UserError
from rankclip_jax import recipes
from rankclip_jax.parallel.processes import is_first, wait_for_all
from rankclip_jax.run import settings, versions

_LOGGER = logging.getLogger(__name__)


def check_writable(workdir: Path) -> None:
    """Raises UserError where the folder, or the one that it would be made in, cannot be written; writes nothing."""
    try:
        files.check_writable(workdir)
    except OSError as error:
        raise UserError(f"--workdir: {workdir} cannot be written ({error}). Name another folder.") from error


def agree(workdir: Path, config: ConfigDict, examples: int) -> tuple[ConfigDict, ConfigDict | None]:
    """The settings to train with, and those of the run that the folder holds, the same but for the run's length.

    Settings that came after the run was begun keep what it did, unless they are changed. Settings without a checkpoint
    are not a run, and may be replaced. Nothing is written.

    Args:
      workdir: the run's folder.
      config: the settings asked for.
      examples: records in the training data.

    Raises:
      UserError: the folder holds a run with other settings.
    """
    if not saved_steps(workdir):
        return config, None
    stored, added, version = _read(workdir)
    for later in range(version + 1, versions.VERSION + 1):
        if later in versions.NOTES:
            _LOGGER.warning(
                "%s is of version %d of the settings; since %d %s", workdir, version, later, versions.NOTES[later]
            )
    asked, defaults = (dict(settings.flatten(settings.to_dict(some))) for some in (config, recipes.base()))
    kept = {name for name in added if asked[name] == defaults[name]}
    old, new = ConfigDict(stored), config.copy_and_resolve_references()
    with new.unlocked():
        new.update_from_flattened_dict({name: dict(settings.flatten(stored))[name] for name in kept})
    if settings.warmup(old, examples) == settings.warmup(new, examples):
        new.optimizer.update({name: old.optimizer[name] for name in ("warmup_share", "warmup_steps")})
    lines = settings.differences(stored, settings.to_dict(new))
    if lines:
        raise UserError(
            f"--workdir: {workdir} holds a run with other settings: {'; '.join(lines)}. "
            "Name another --workdir for the new run, or give these settings their old values to go on with the old."
        )
    return new, old


def saved_steps(workdir: Path) -> list[int]:
    """The steps whose checkpoints are complete, in order."""
    folder = workdir / "checkpoints"
    return sorted(ocp.utils.checkpoint_steps(folder)) if folder.is_dir() else []


def write_config(workdir: Path, config: ConfigDict) -> None:
    """Creates the folder if need be and writes ``config.json``, by one process; the others wait."""
    if is_first():
        workdir.mkdir(parents=True, exist_ok=True)
        content = versions.written(settings.to_dict(config))
        files.write_atomically(workdir / "config.json", json.dumps(content, indent=2) + "\n")
    wait_for_all("config.json")


def read_config(workdir: Path) -> dict:
    """The settings of the run in the folder, brought up to date.

    Raises:
      UserError: there is no run, or its settings cannot be read or are not a run's.
    """
    return _read(workdir)[0]


def _read(workdir: Path) -> tuple[dict, set[str], int]:
    """The settings, brought up to date, the names of those that came after they were written, and in what version."""
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(
            f"--workdir: no run at {workdir} (no {path.name} there). "
            "Train one with: python -m rankclip_jax.train --config configs/demo.py"
        )
    mend = "Restore it, or name another --workdir."
    try:
        content = json.loads(path.read_text(encoding="utf8"))
    except ValueError as error:
        raise UserError(f"--workdir: {path} is not JSON: {error}. {mend}") from error
    try:
        version = content.pop(versions.KEY, 1)
        written = {name for name, _ in settings.flatten(content)}
        versions.bring_up_to_date(content, version)
        found = {name for name, _ in settings.flatten(content)}
    except (AttributeError, TypeError, KeyError) as error:
        what = f"{type(error).__name__}: {error}"
        raise UserError(f"--workdir: {path} does not hold a run's settings by section ({what}). {mend}") from error
    except UserError as error:
        raise UserError(f"--workdir: {path}: {error}") from error
    expected = {name for name, _ in settings.flatten(recipes.base().to_dict())}
    if found != expected:
        names = ", ".join(sorted(found ^ expected)[:5])
        raise UserError(f"--workdir: {path} has other settings than a run of version {version}: {names}. {mend}")
    try:
        settings.check_parts(ConfigDict(content))
    except UserError as error:
        raise UserError(f"--workdir: {path}: {error}") from error
    return content, expected - written, version
