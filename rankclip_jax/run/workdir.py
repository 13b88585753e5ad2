"""The folder of a run: its settings, and whether it may be used."""

import json
from pathlib import Path

import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from rankclip_jax import recipes
from rankclip_jax.input_pipeline import files
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.parallel.processes import is_first, wait_for_all
from rankclip_jax.run import settings

RECIPE = "recipe.py"  # in a workdir: a copy of what the run was started with


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
    stored, added = _read(workdir)
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


def write_config(workdir: Path, config: ConfigDict, recipe: Path | None = None) -> None:
    """Creates the folder if need be and writes ``config.json``, by one process; the others wait.

    Args:
      workdir: the run's folder.
      config: its settings.
      recipe: the file that they are from, copied for whoever needs the code that it adds; nothing runs the copy
        unless somebody names it on a command line.
    """
    if is_first():
        workdir.mkdir(parents=True, exist_ok=True)
        content = json.dumps(settings.to_dict(config), indent=2)
        files.write_atomically(workdir / "config.json", f"{content}\n")
        if recipe is not None:
            files.write_atomically(workdir / RECIPE, recipe.read_bytes())
    wait_for_all("config.json")


def read_config(workdir: Path) -> dict:
    """The settings of the run in the folder; those that came after it was begun have their defaults.

    Raises:
      UserError: there is no run, or its settings cannot be read or are not a run's.
    """
    return _read(workdir)[0]


def _read(workdir: Path) -> tuple[dict, set[str]]:
    """The settings of the run in the folder, and the names of those that it was begun without."""
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(
            f"--workdir: no run at {workdir} (no {path.name} there). "
            "Train one with: python -m rankclip_jax.train --config configs/demo.py"
        )
    advice = "Restore it, or use another --workdir."
    try:
        content = json.loads(path.read_text(encoding="utf8"))
        found = dict(settings.flatten(content))
    except (ValueError, AttributeError) as error:
        raise UserError(f"--workdir: {path} does not hold a run's settings as JSON: {error}. {advice}") from error
    complete = recipes.base()
    known = {name for name, _ in settings.flatten(complete.to_dict())}
    unknown = settings.unknown_names(found)
    if not found or unknown:
        names = ", ".join(unknown[:5]) or "nothing"
        raise UserError(f"--workdir: {path}: expected the settings of configs/base.py; found {names}. {advice}")
    try:
        complete.update(content)
        settings.check_form(complete)
    except (UserError, TypeError, ValueError) as error:
        raise UserError(f"--workdir: {path}: {error}") from error
    return settings.to_dict(complete), known - found.keys()
