"""Recipe flags: ``--config RECIPE`` loads a recipe, and ``--config.NAME=VALUE`` overrides one of its settings."""

import difflib
import keyword
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
_MIN_SIMILARITY = 0.75  # of 1, above which a name counts as a typo of another
_CONFIG = "config"
_MARK = "recipe"  # attribute of a --config flag with overrides: the recipe's file once loaded, else None


class Recipe:
    """A loaded recipe, with the overrides of the command line applied.

    Args:
      path: the recipe's file.
      config: the settings.
      overrides: the settings from the command line, by dotted name.
    """

    def __init__(self, path: Path, config: ConfigDict, overrides: dict[str, Any]) -> None:
        self.path, self.config, self.overrides = path, config, overrides


def define_config() -> None:
    """Defines the ``--config RECIPE`` flag, with an override ``--config.a.b=value`` for every setting."""
    flags.DEFINE_string(_CONFIG, None, "recipe: a file, or the name of a built-in recipe, such as demo")
    _mark(None)


def define_recipe() -> flags.FlagHolder:
    """Defines ``--config RECIPE`` without overrides, for commands that read a run's stored settings."""
    return flags.DEFINE_string(
        _CONFIG, None, "recipe to load first if it adds an encoder or objective, such as the run's own recipe.py"
    )


def has_recipe() -> bool:
    """Whether the command takes a recipe with overrides."""
    return _CONFIG in flags.FLAGS and is_recipe(flags.FLAGS[_CONFIG])


def is_recipe(flag: flags.Flag) -> bool:
    """Whether a flag takes overrides, as ``--config.NAME=VALUE``."""
    return hasattr(flag, _MARK)


def given_recipe() -> Recipe:
    """Returns the recipe that the command line names.

    Raises:
      UserError: the command line names no recipe.
    """
    flag = flags.FLAGS[_CONFIG]
    path = getattr(flag, _MARK)
    if path is None:
        raise UserError("--config: not given. Use a recipe, such as --config configs/demo.py.")
    return Recipe(path, flag.value, config_flags.get_override_values(flag))


def load_recipe(argv: list[str]) -> list[str]:
    """Runs the recipe that a command line names, and returns the command line without it.

    If the command takes overrides, this defines their flags. It imports the encoders, objectives and other parts that
    the recipe and the overrides choose, and adds their settings.

    Raises:
      UserError: the recipe is missing or broken, or lacks a setting that the command line names.
    """
    position, count, given = _find(argv)
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
            raise UserError(f"--{match[1]}: unknown setting.{_suggest(match[1], names)}")
        if match and (reserved := [part for part in match[1].split(".") if keyword.iskeyword(part)]):
            raise UserError(
                f"--{match[1]}: expected a name that is not a Python keyword; found {reserved[0]!r}. Use another name, "
                "or set it in a recipe."
            )
    rest = argv[:position] + argv[position + count :]
    delattr(flags.FLAGS, _CONFIG)
    config_flags.DEFINE_config_dict(_CONFIG, config, lock_config=True, sys_argv=rest)
    _mark(path)
    return rest


def nearest(name: str, names: list[str]) -> str | None:
    """Returns the most similar known name, or None if no name is similar.

    Compares the part after the last dot: a typo of a few letters, or a subset of the same words.
    """

    def similarity(known: str) -> tuple[float, float]:
        key, known_key = name.rsplit(".", 1)[-1], known.rsplit(".", 1)[-1]
        is_subset = set(key.split("_")) <= set(known_key.split("_"))
        ratio = difflib.SequenceMatcher(None, key, known_key).ratio()
        return max(ratio, 0.95 * is_subset), difflib.SequenceMatcher(None, name, known).ratio()

    best = max(names, key=similarity, default=None)
    return best if best is not None and similarity(best)[0] >= _MIN_SIMILARITY else None


def _mark(path: Path | None) -> None:
    setattr(flags.FLAGS[_CONFIG], _MARK, path)


def _existing(given: str) -> Path:
    path = recipe_files.find(given)
    if path.is_file():
        return path
    siblings = sorted(str(path) for path in path.parent.glob("*.py") if path.stem not in ("base", "__init__"))
    choices = [path for path in siblings if path.startswith("configs")] or [
        f"configs/{name}.py" for name in recipe_files.names()
    ]
    raise UserError(f"--config: no file at {given}. Choose from {', '.join(choices)}.")


def _run(path: Path) -> ConfigDict:
    folder = str(path.parent.resolve())
    if folder not in sys.path:
        sys.path.append(folder)  # a recipe may import code from its own folder
    try:
        return runpy.run_path(str(path))["get_config"]()
    except Exception as error:  # a recipe's own code may raise anything
        raise UserError(f"--config: {path} raised {type(error).__name__}: {error}. Fix the recipe.") from error


def _complete(path: Path, config: ConfigDict, argv: list[str]) -> ConfigDict:
    """Returns the settings, completed with those of the parts that the recipe or the command line chooses."""
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
                    raise UserError(f"--config: {path} lacks config.{name}. Start the recipe with config = base().")
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
    """Adds to each task the default of every setting that the command line overrides."""
    from rankclip_jax.settings.schema import schema  # here, since importing JAX takes a second

    for name in given:
        match = re.fullmatch(rf"{_TASKS}\.(\w+)\.(\w+)", name)
        if match and match[1] in tasks:
            entry = tasks[match[1]]
            known = schema().entry_settings("evaluation.tasks", entry.task)
            if match[2] in known and match[2] not in entry:
                entry[match[2]] = known[match[2]].default


def _with_encoders(model: ConfigDict, complete: ConfigDict) -> ConfigDict:
    """Returns the model's settings with all sizes of both encoders, so that the command line can override them."""
    model.vision, model.text = complete.vision, complete.text
    return model


def _find(argv: list[str]) -> tuple[int, int, str | None]:
    """Returns the position of ``--config`` on the command line, its number of words, and its value."""
    for position, arg in enumerate(argv):
        match = re.fullmatch(r"--?config(?:=(.*))?", arg)
        if match and match[1] is not None:
            return position, 1, match[1]
        if match and position + 1 < len(argv):
            return position, 2, argv[position + 1]
    return 0, 0, None


def _flatten(config: ConfigDict) -> list[tuple[str, Any]]:
    from rankclip_jax.settings.schema import flatten

    return list(flatten(config.to_dict()))


def _suggest(name: str, names: list[str]) -> str:
    inside = [known for known in names if known.startswith(name + ".")]
    if inside:
        return f" It is a section. Choose from {', '.join('--' + known for known in inside)}."
    suggestion = nearest(name, names)
    return f" Did you mean --{suggestion}?" if suggestion else " See --help or docs/settings.md for all settings."
