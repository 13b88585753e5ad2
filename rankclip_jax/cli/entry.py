"""The frame of every command: its flags, its recipe, and one paragraph instead of a traceback."""

import difflib
import re
import runpy
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import absl.logging
from absl import app, flags
from ml_collections import config_flags

from rankclip_jax import recipes
from rankclip_jax.cli import help as help_page
from rankclip_jax.distributed import platform
from rankclip_jax.input_pipeline import memory
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.explained import ExitOnUserError, PrintableFormatter, log_to_stderr
from rankclip_jax.input_pipeline.files import check_writable, printable
from rankclip_jax.input_pipeline.object_stores import is_remote, path_of

STARTED = time.monotonic()  # about when the process began: nothing that takes long was imported before
_NEAR = 0.75  # of 1, of names that differ by a slip
EXIT_ON_USER_ERROR = ExitOnUserError("rankclip_jax", "What was saved before stays; give the same command again.")


def define_config() -> flags.FlagHolder:
    """The ``--config RECIPE`` flag, with an override ``--config.a.b=value`` for every setting."""
    return config_flags.DEFINE_config_file(
        "config", None, "recipe: a file, or the name of one that comes with the system, such as demo", lock_config=True
    )


def define_recipe() -> flags.FlagHolder:
    """The flag ``--config RECIPE`` of commands that read a run, whose settings are in the run."""
    return flags.DEFINE_string(
        "config", None, "recipe to run first, for a preset or objective that it adds, such as a run's own recipe.py"
    )


def config_of(flag: flags.FlagHolder) -> Any:
    """The settings of the recipe that the command line names.

    Raises:
      UserError: it names none.
    """
    if flag.value is None:
        raise UserError("--config: not given. Name a recipe, such as --config configs/demo.py.")
    return flag.value


def join_processes(config: Any) -> None:
    """Finds the other processes of the run, where the environment speaks of any; what others print names their host.

    Raises:
      UserError: fewer came than it speaks of, or they differ.
    """
    import jax  # after the flags are read, since importing JAX takes a second

    from rankclip_jax.distributed import start_up

    hosts = start_up.start(config.processes)
    if hosts and not jax.process_index():  # JAX's own messages call processes tasks, by number
        print(
            "processes: " + ", ".join(f"{number} on {printable(host)}" for number, host in enumerate(hosts)), flush=True
        )
    EXIT_ON_USER_ERROR.program = start_up.named("rankclip_jax")


def local_path(flag: flags.FlagHolder, example: str) -> Path:
    """The path on a disk that a flag names.

    Raises:
      UserError: it is not given, is empty, or is in an object store.
    """
    path = path_flag(flag, example)
    if is_remote(path):
        raise UserError(f"--{flag.name}: expected a path on a disk; found {flag.value}.")
    return path


def path_flag(flag: flags.FlagHolder, example: str) -> Path:
    """The path that a flag names, on a disk or in an object store.

    Raises:
      UserError: it is not given, is empty, or is in a store that cannot be used.
    """
    if not flag.value:
        found = "not given" if flag.value is None else "empty"
        raise UserError(f"--{flag.name}: {found}. {example}")
    try:
        return path_of(flag.value)
    except UserError as error:
        raise UserError(f"--{flag.name}: {error}") from error


def check_can_be_written(flag: str, path: Path) -> None:
    """Raises UserError where a file cannot be made at the path; nothing is left there."""
    if path.is_dir():
        raise UserError(f"--{flag}: {path} is a folder; expected the name of a file, such as {path / 'results.json'}.")
    try:
        check_writable(path.absolute().parent)
    except OSError as error:
        raise UserError(f"--{flag}: {path} cannot be written ({error.strerror}). Name another path.") from error


def run(
    main: Callable[..., None],
    subjects: tuple[str, ...] = (),
    takes_words: bool = False,
    keeps_freed_memory: bool = False,
) -> None:
    """Parses the flags and calls ``main``; what a person can mend becomes one paragraph and exit status 2.

    Args:
      main: called without arguments, or with the words beside the flags.
      subjects: words of which the command line must name one.
      takes_words: any words may stand beside the flags.
      keeps_freed_memory: the command computes the same step again and again (`platform.keep_freed_memory`). Others
        give it back: what they decode may be large.
    """
    log_to_stderr()
    platform.set_variables()
    if keeps_freed_memory:
        platform.keep_freed_memory()
    else:
        memory.give_large_back()

    def guarded(argv: list[str]) -> None:
        absl.logging.set_verbosity(absl.logging.WARNING)  # libraries report each of their steps otherwise
        absl.logging.get_absl_handler().setFormatter(PrintableFormatter("%(message)s"))
        # A save that fails is said in one line by us, and by Orbax and TensorStore in a hundred.
        absl.logging.get_absl_handler().addFilter(lambda record: "/orbax/" not in record.pathname)
        sys.unraisablehook = _of_the_main_thread
        with EXIT_ON_USER_ERROR:
            main(*(argv[1:] if takes_words else _words(argv[1:], subjects)))

    with EXIT_ON_USER_ERROR:
        app.run(guarded, flags_parser=_parse)


def _of_the_main_thread(ignored: Any) -> None:
    """Prints an error that could not be raised, but for those of libraries' own threads."""
    if threading.current_thread() is threading.main_thread():
        sys.__unraisablehook__(ignored)


def _parse(argv: list[str]) -> list[str]:
    with EXIT_ON_USER_ERROR:
        if {"--help", "-help", "-h", "--helpfull", "--helpshort"}.intersection(argv[1:]):
            print(help_page.text())
            sys.exit(0)
        argv = _check_recipe(argv)
        try:
            return flags.FLAGS(argv)
        except flags.UnrecognizedFlagError as error:
            near = _nearest(error.flagname, [flag.name for flag in help_page.own_flags()])
            advice = f"Did you mean --{near}?" if near else "All flags are listed by --help."
            raise UserError(f"--{error.flagname}: no such flag. {advice}") from error
        except (flags.Error, TypeError, ValueError, SyntaxError, AttributeError, KeyError) as error:
            raise UserError(str(error)) from error
    raise AssertionError("the context above ends the process")


def _words(words: list[str], subjects: tuple[str, ...]) -> list[str]:
    if subjects and (len(words) != 1 or words[0] not in subjects):
        raise UserError(f"expected one of {', '.join(subjects)}; found {' '.join(words) or 'nothing'}.")
    if words and not subjects:
        raise UserError(f"{words[0]}: expected only flags, such as --config configs/demo.py.")
    return words


def _check_recipe(argv: list[str]) -> list[str]:
    """The command line with the recipe's path in place of its name.

    Raises:
      UserError: the recipe is missing or broken, or lacks a setting that the command line names.
    """
    place, given = _recipe(argv)
    if given is None:
        return argv
    recipe = recipes.find(given)
    if not recipe.is_file():
        near = sorted(str(path) for path in recipe.parent.glob("*.py") if path.stem not in ("base", "__init__"))
        mine = [path for path in near if path.startswith("configs")] or [
            f"configs/{name}.py" for name in recipes.names()
        ]
        raise UserError(f"--config: no file at {given}. There are: {', '.join(mine)}.")
    try:
        config = runpy.run_path(str(recipe))["get_config"]()
        names = [f"config.{name}" for name, _ in recipes.flatten(config.to_dict())]
    except Exception as error:  # whatever a recipe's own code does
        raise UserError(f"--config: {recipe} does not run: {type(error).__name__}: {error}.") from error
    for arg in argv:
        match = re.match(r"--?(config\.[^=]*)", arg)
        if match and match[1] not in names:
            raise UserError(f"--{match[1]}: no such setting.{_suggest(match[1], names)}")
    found = argv[place]
    replaced = f"--config={recipe}" if "=" in found else str(recipe)
    return [*argv[:place], replaced, *argv[place + 1 :]]


def _recipe(argv: list[str]) -> tuple[int, str | None]:
    """Where on the command line the recipe stands, and what stands there."""
    for place, arg in enumerate(argv):
        match = re.fullmatch(r"--?config(?:=(.*))?", arg)
        if match and match[1] is not None:
            return place, match[1]
        if match and place + 1 < len(argv):
            return place + 1, argv[place + 1]
    return 0, None


def _suggest(name: str, names: list[str]) -> str:
    inside = [known for known in names if known.startswith(name + ".")]
    if inside:
        return f" It is a section; it has {', '.join('--' + known for known in inside)}."
    near = _nearest(name, names)
    return f" Did you mean --{near}?" if near else " The settings are listed by --help, and in configs/base.py."


def _nearest(name: str, names: list[str]) -> str | None:
    """The name that somebody may have meant; None: none is near.

    What counts is the part after the last dot: a slip of a few letters, or some of the same words.
    """

    def nearness(known: str) -> tuple[float, float]:
        here, there = name.rsplit(".", 1)[-1], known.rsplit(".", 1)[-1]
        words, of = set(here.split("_")), set(there.split("_"))
        alike = difflib.SequenceMatcher(None, here, there).ratio()
        return max(alike, _NEAR * (words <= of)), difflib.SequenceMatcher(None, name, known).ratio()

    best = max(names, key=nearness, default=None)
    return best if best is not None and nearness(best)[0] >= _NEAR else None
