"""What all commands share: flags, the recipe file, and one paragraph instead of a traceback."""

import difflib
import logging
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import absl.logging
from absl import app, flags
from ml_collections import config_flags

from input_pipeline.errors import UserError
from rankclip_jax import settings


def define_config() -> flags.FlagHolder:
    """The ``--config FILE`` flag, with an override ``--config.a.b=value`` for every setting."""
    return config_flags.DEFINE_config_file("config", None, "recipe, such as configs/demo.py", lock_config=True)


def run(main: Callable[..., None], subjects: tuple[str, ...] = ()) -> None:
    """Parses the flags and calls ``main``; a `UserError` becomes one paragraph and exit status 2.

    Args:
      main: called without arguments, or with the subject where there are ``subjects``.
      subjects: words of which the command line must name one.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)

    def guarded(argv: list[str]) -> None:
        absl.logging.set_verbosity(absl.logging.WARNING)  # libraries report each of their steps otherwise
        try:
            main(*_words(argv[1:], subjects))
        except UserError as error:
            _exit(str(error))

    app.run(guarded, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    try:
        _check_recipe(argv)
        rest = flags.FLAGS(argv)
    except UserError as error:
        _exit(str(error))
    except (flags.Error, TypeError, ValueError) as error:
        _exit(re.sub(r"\s+", " ", str(error)))
    return rest


def _words(words: list[str], subjects: tuple[str, ...]) -> list[str]:
    if subjects and (len(words) != 1 or words[0] not in subjects):
        raise UserError(f"expected one of {', '.join(subjects)}; found {' '.join(words) or 'nothing'}.")
    if words and not subjects:
        raise UserError(f"{words[0]}: expected only flags, such as --config configs/demo.py.")
    return words


def _check_recipe(argv: list[str]) -> None:
    """Raises UserError where the recipe is missing or broken, or lacks a setting that the command line names."""
    recipe = _recipe(argv)
    if recipe is None:
        return
    if not recipe.is_file():
        names = sorted(str(path) for path in recipe.parent.glob("*.py") if path.stem not in ("base", "__init__"))
        there = f"There are: {', '.join(names)}." if names else "Expected a recipe, such as configs/demo.py."
        raise UserError(f"--config: no file at {recipe}. {there}")
    try:
        config = runpy.run_path(str(recipe))["get_config"]()
    except Exception as error:  # whatever a recipe's own code does
        raise UserError(f"--config: {recipe} does not run: {type(error).__name__}: {error}.") from error
    names = [f"config.{name}" for name, _ in settings.flatten(config.to_dict())]
    for arg in argv:
        match = re.match(r"--?(config\.[^=]*)", arg)
        if match and match[1] not in names:
            raise UserError(f"--{match[1]}: no such setting.{_suggest(match[1], names)}")


def _recipe(argv: list[str]) -> Path | None:
    for position, arg in enumerate(argv):
        match = re.fullmatch(r"--?config(?:=(.*))?", arg)
        if match and (match[1] is not None or position + 1 < len(argv)):
            return Path(match[1] if match[1] is not None else argv[position + 1])
    return None


def _suggest(name: str, names: list[str]) -> str:
    leaf = name.rsplit(".", 1)[-1]
    by_leaf = {known.rsplit(".", 1)[-1]: known for known in names}
    inside = [known for known in names if known.startswith(name + ".")]
    if inside:
        return f" It is a section; it has {', '.join('--' + known for known in inside)}."
    close = difflib.get_close_matches(name, names, 1) or [
        by_leaf[key] for key in difflib.get_close_matches(leaf, by_leaf, 1)
    ]
    return f" Did you mean --{close[0]}?" if close else " The settings are listed in configs/base.py."


def _exit(message: str) -> NoReturn:
    print(f"rankclip_jax: {message}", file=sys.stderr)
    sys.exit(2)
