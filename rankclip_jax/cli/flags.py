"""The flags of recipes: ``--config RECIPE`` and ``--config.NAME=VALUE``, with the settings that they name completed."""

import difflib
import re
import runpy
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.settings import recipe_files

_TASKS = r"evaluation\.tasks"
_NEAR = 0.75  # of 1, of names that differ by a slip
_CONFIG = "config"
_MARK = "recipe"  # an attribute of that flag, where settings follow it: the recipe's file, once it is run


class Recipe:
    """What ``--config RECIPE`` names: its settings, changed by those of the command line.

    Args:
      path: the recipe's file.
      config: the settings.
      overrides: those that the command line gives, by dotted name.
    """

    def __init__(self, path: Path, config: ConfigDict, overrides: dict[str, Any]) -> None:
        self.path, self.config, self.overrides = path, config, overrides


def define_config() -> None:
    """The ``--config RECIPE`` flag, with an override ``--config.a.b=value`` for every setting."""
    flags.DEFINE_string(_CONFIG, None, "recipe: a file, or the name of one that comes with the system, such as demo")
    _mark(None)


def define_recipe() -> flags.FlagHolder:
    """The flag ``--config RECIPE`` of commands that read a run, whose settings are in the run."""
    return flags.DEFINE_string(
        _CONFIG, None, "recipe to run first, for an encoder or objective that it adds, such as a run's own recipe.py"
    )


def has_recipe() -> bool:
    """Whether the command takes a recipe, and settings with it."""
    return _CONFIG in flags.FLAGS and is_recipe(flags.FLAGS[_CONFIG])


def is_recipe(flag: flags.Flag) -> bool:
    """Whether settings follow a flag, as ``--config.NAME=VALUE``."""
    return hasattr(flag, _MARK)


def given_recipe() -> Recipe:
    """The recipe that the command line names.

    Raises:
      UserError: it names none.
    """
    flag = flags.FLAGS[_CONFIG]
    path = getattr(flag, _MARK)
    if path is None:
        raise UserError("--config: not given. Use a recipe, such as --config configs/demo.py.")
    return Recipe(path, flag.value, config_flags.get_override_values(flag))


def load_recipe(argv: list[str]) -> list[str]:
    """Runs the recipe that a command line names; the command line without it.

    Where the command takes settings, a flag is defined for each that the command line changes. The parts that these and
    the recipe choose are imported, and their settings are among them.

    Raises:
      UserError: the recipe is missing or broken, or lacks a setting that the command line names.
    """
    place, count, given = _find(argv)
    if given is None:
        return argv
    path = _existing(given)
    if not has_recipe():
        from rankclip_jax.settings.schema import import_parts  # here, since importing JAX takes a second

        import_parts(_run(path))
        return argv
    config = _complete(path, _run(path), argv)
    names = [f"config.{name}" for name, _ in _flatten(config)]
    for arg in argv:
        match = re.match(r"--?(?:no)?(config\.[^=]*)", arg)
        if match and match[1] not in names:
            raise UserError(f"--{match[1]}: no such setting.{_suggest(match[1], names)}")
    rest = argv[:place] + argv[place + count :]
    delattr(flags.FLAGS, _CONFIG)
    config_flags.DEFINE_config_dict(_CONFIG, config, lock_config=True, sys_argv=rest)
    _mark(path)
    return rest


def nearest(name: str, names: list[str]) -> str | None:
    """The name that somebody may have meant; None: none is near.

    What counts is the part after the last dot: a slip of a few letters, or some of the same words.
    """

    def nearness(known: str) -> tuple[float, float]:
        here, there = name.rsplit(".", 1)[-1], known.rsplit(".", 1)[-1]
        words, of = set(here.split("_")), set(there.split("_"))
        alike = difflib.SequenceMatcher(None, here, there).ratio()
        return max(alike, 0.95 * (words <= of)), difflib.SequenceMatcher(None, name, known).ratio()

    best = max(names, key=nearness, default=None)
    return best if best is not None and nearness(best)[0] >= _NEAR else None


def _mark(path: Path | None) -> None:
    setattr(flags.FLAGS[_CONFIG], _MARK, path)


def _existing(given: str) -> Path:
    path = recipe_files.find(given)
    if path.is_file():
        return path
    near = sorted(str(path) for path in path.parent.glob("*.py") if path.stem not in ("base", "__init__"))
    mine = [path for path in near if path.startswith("configs")] or [
        f"configs/{name}.py" for name in recipe_files.names()
    ]
    raise UserError(f"--config: no file at {given}. Choose from {', '.join(mine)}.")


def _run(path: Path) -> ConfigDict:
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.append(folder)  # a recipe may name code that lies beside it
    try:
        return runpy.run_path(str(path))["get_config"]()
    except Exception as error:  # whatever a recipe's own code does
        raise UserError(f"--config: {path} does not run: {type(error).__name__}: {error}.") from error


def _complete(path: Path, config: ConfigDict, argv: list[str]) -> ConfigDict:
    """The settings with those of the parts that they, or the command line, choose."""
    from rankclip_jax.models.presets import resolved  # here, since importing JAX takes a second
    from rankclip_jax.settings.schema import import_parts, schema

    matches = [re.fullmatch(r"--?config\.([\w.]+)=(.*)", arg) for arg in argv]
    given = {match[1]: match[2] for match in matches if match}
    chosen = {name: value for name, value in given.items() if name in schema().selectors()}
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        for name, value in chosen.items():
            *sections, key = name.split(".")
            section = copy
            for part in sections:
                if part not in section:
                    raise UserError(f"--config: {path} lacks config.{name}. Begin it with config = base().")
                section = section[part]
            section[key] = value
        for name, value in given.items():
            if match := re.fullmatch(rf"{_TASKS}\.(\w+)\.task", name):
                copy.evaluation.tasks[match[1]] = copy.evaluation.tasks.get(match[1], ConfigDict())
                copy.evaluation.tasks[match[1]].task = value
        import_parts(copy)
        _add_task_settings(copy.evaluation.tasks, given)
        complete = schema().complete(copy)
        complete.model = _with_encoders(complete.model, resolved(complete.model))
    return complete


def _add_task_settings(tasks: ConfigDict, given: Iterable[str]) -> None:
    """Adds to each task what the command line names of it, with its default."""
    from rankclip_jax.settings.schema import schema  # here, since importing JAX takes a second

    for name in given:
        match = re.fullmatch(rf"{_TASKS}\.(\w+)\.(\w+)", name)
        if match and match[1] in tasks:
            entry = tasks[match[1]]
            known = schema().entry_settings("evaluation.tasks", entry.task)
            if match[2] in known and match[2] not in entry:
                entry[match[2]] = known[match[2]].default


def _with_encoders(model: ConfigDict, complete: ConfigDict) -> ConfigDict:
    """The settings of the model with all sizes of both encoders, so that the command line can change them."""
    model.vision, model.text = complete.vision, complete.text
    return model


def _find(argv: list[str]) -> tuple[int, int, str | None]:
    """Where on the command line the recipe stands, in how many words, and what stands there."""
    for place, arg in enumerate(argv):
        match = re.fullmatch(r"--?config(?:=(.*))?", arg)
        if match and match[1] is not None:
            return place, 1, match[1]
        if match and place + 1 < len(argv):
            return place, 2, argv[place + 1]
    return 0, 0, None


def _flatten(config: ConfigDict) -> list[tuple[str, Any]]:
    from rankclip_jax.settings.schema import flatten

    return list(flatten(config.to_dict()))


def _suggest(name: str, names: list[str]) -> str:
    inside = [known for known in names if known.startswith(name + ".")]
    if inside:
        return f" It is a section; it has {', '.join('--' + known for known in inside)}."
    near = nearest(name, names)
    return f" Did you mean --{near}?" if near else " All settings are listed by --help and in docs/settings.md."
