"""Shared command-line entry point: flags, and one paragraph instead of a traceback."""

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import absl.logging
from absl import app, flags

from rankclip_jax.cli import help as help_page
from rankclip_jax.cli.flags import load_recipe, nearest
from rankclip_jax.distributed import platform
from rankclip_jax.input_pipeline import memory
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.explained import ExitOnUserError, PrintableFormatter, log_to_stderr
from rankclip_jax.input_pipeline.files import check_writable, printable
from rankclip_jax.input_pipeline.object_stores import is_remote, path_of

STARTED = time.monotonic()  # about when the process began: nothing that takes long was imported before
EXIT_ON_USER_ERROR = ExitOnUserError("rankclip_jax", "What was saved before stays; give the same command again.")


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
        argv = load_recipe(argv)
        try:
            return flags.FLAGS(argv)
        except flags.UnrecognizedFlagError as error:
            near = nearest(error.flagname, [flag.name for flag in help_page.own_flags()])
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
