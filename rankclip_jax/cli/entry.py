"""Shared command-line entry point: parses flags, and prints one paragraph instead of a traceback."""

import logging
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

STARTED = time.monotonic()  # approximates the start of the process: all slow imports come later
EXIT_ON_USER_ERROR = ExitOnUserError("rankclip_jax", "Saved checkpoints are kept; run the same command again.")


def join_processes(config: Any) -> None:
    """Joins the other processes of a multi-process run, as the environment describes it.

    From then on, messages of all but the first process name their host.

    Raises:
      UserError: some processes are missing, or the processes differ.
    """
    import jax  # after the flags are read, since importing JAX takes a second

    from rankclip_jax.distributed import start_up

    hosts = start_up.start(config.processes)
    if hosts and not jax.process_index():  # JAX's own messages call processes tasks and name them by number
        print(
            "processes: " + ", ".join(f"{number} on {printable(host)}" for number, host in enumerate(hosts)), flush=True
        )
    EXIT_ON_USER_ERROR.program = start_up.named("rankclip_jax")


def local_path(flag: flags.FlagHolder, example: str) -> Path:
    """Returns the local path that a flag names.

    Raises:
      UserError: the flag is not given, is empty, or names a path in an object store.
    """
    path = path_flag(flag, example)
    if is_remote(path):
        raise UserError(f"--{flag.name}: expected a local path; found {flag.value}. Use a folder or file on a disk.")
    return path


def path_flag(flag: flags.FlagHolder, example: str) -> Path:
    """Returns the path that a flag names, local or in an object store.

    Raises:
      UserError: the flag is not given, is empty, or names a path in an unsupported object store.
    """
    if not flag.value:
        problem = "not given" if flag.value is None else "empty"
        raise UserError(f"--{flag.name}: {problem}. {example}")
    try:
        return path_of(flag.value)
    except UserError as error:
        raise UserError(f"--{flag.name}: {error}") from error


def check_can_be_written(flag: str, path: Path) -> None:
    """Raises UserError if a file cannot be created at the path; leaves nothing there."""
    if path.is_dir():
        raise UserError(
            f"--{flag}: {path} is a folder; expected a file. Use a file name, such as {path / 'results.json'}."
        )
    try:
        check_writable(path.absolute().parent)
    except OSError as error:
        raise UserError(f"--{flag}: {path} cannot be written ({error.strerror}). Use another path.") from error


def run(
    main: Callable[..., None],
    subjects: tuple[str, ...] = (),
    takes_words: bool = False,
    keeps_freed_memory: bool = False,
) -> None:
    """Parses the flags and calls ``main``; a UserError prints one paragraph and exits with status 2.

    Args:
      main: called without arguments, or with the positional arguments.
      subjects: the choices for one required positional argument.
      takes_words: whether the command takes any number of positional arguments.
      keeps_freed_memory: whether the process keeps freed memory (`platform.keep_freed_memory`), for commands that
        repeat the same step many times. Other commands return it, since the images they decode may be large.
    """
    log_to_stderr()
    platform.set_variables()
    if keeps_freed_memory:
        platform.keep_freed_memory()
    else:
        memory.give_large_back()

    def guarded(argv: list[str]) -> None:
        absl.logging.set_verbosity(absl.logging.WARNING)  # otherwise libraries log each of their steps
        absl.logging.get_absl_handler().setFormatter(PrintableFormatter("%(message)s"))
        absl.logging.get_absl_handler().addFilter(_is_not_of_failed_save)
        sys.unraisablehook = _print_from_main_thread
        with EXIT_ON_USER_ERROR:
            main(*(argv[1:] if takes_words else _words(argv[1:], subjects)))

    with EXIT_ON_USER_ERROR:
        app.run(guarded, flags_parser=_parse)


def _is_not_of_failed_save(record: logging.LogRecord) -> bool:
    """Logging filter: drops what Orbax and asyncio log of a failed save, which we report in one line."""
    return "/orbax/" not in record.pathname and "exception was never retrieved" not in record.getMessage()


def _print_from_main_thread(ignored: Any) -> None:
    """Prints an error that could not be raised, unless it comes from a library's own thread."""
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
            suggestion = nearest(error.flagname, [flag.name for flag in help_page.own_flags()])
            advice = f"Did you mean --{suggestion}?" if suggestion else "Run with --help to list all flags."
            raise UserError(f"--{error.flagname}: unknown flag. {advice}") from error
        except (flags.Error, TypeError, ValueError, SyntaxError, AttributeError, KeyError) as error:
            raise UserError(str(error)) from error
    raise AssertionError("the context above ends the process")


def _words(words: list[str], subjects: tuple[str, ...]) -> list[str]:
    if subjects and (len(words) != 1 or words[0] not in subjects):
        raise UserError(f"expected one argument; found {' '.join(words) or 'none'}. Choose from {', '.join(subjects)}.")
    if words and not subjects:
        raise UserError(f"{words[0]}: unexpected argument. Use only flags, such as --config configs/demo.py.")
    return words
