"""Inputs drawn at random, against a promise. Each module here is a command of its own.

python -m tests.fuzz.NAME [--count 1000] [--seed 0] [--first 0]

A module has a function ``check(draw)``, which makes one input of ``draw``, a `random.Random`, and raises where the
promise is broken; its ``main`` calls `main` below. Case k is drawn from seed and k alone, so that a broken one comes
back with ``--first k --count 1``. `python -m tests.soak` finds these modules and runs them in turns.
"""

import argparse
import contextlib
import logging
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence

_MOST_SHOWN = 5  # broken cases that are printed in full


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Warnings of the code under test are not logged: thousands of odd inputs bring thousands."""
    logger = logging.getLogger("rankclip_jax")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def main(check: Callable[[random.Random], object], argv: Sequence[str] | None = None) -> int:
    """Draws ``--count`` cases, prints the broken ones and a summary; the exit status, 1 where one is broken.

    Args:
      check: makes a case and raises where it is broken.
      argv: the words of the command line; None: those of this process.
    """
    name = check.__module__ if check.__module__ != "__main__" else _module_of_this_process()
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=sys.modules[check.__module__].__doc__)
    parser.add_argument("--count", type=int, default=1000, help="cases to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    words = parser.parse_args(argv)
    start, broken = time.monotonic(), 0
    for number in range(words.first, words.first + words.count):
        try:
            check(random.Random(f"{words.seed} {number}"))
        except Exception as error:
            broken += 1
            if broken <= _MOST_SHOWN:
                again = f"python -m {name} --seed {words.seed} --first {number} --count 1"
                shown = "".join(traceback.format_exception(error)).rstrip()
                print(f"BROKEN: case {number}, again by: {again}\n{shown}", flush=True)
    if broken > _MOST_SHOWN:
        print(f"and {broken - _MOST_SHOWN} more broken cases")
    print(f"{name}: {words.count - broken} of {words.count} held ({time.monotonic() - start:.0f} s)", flush=True)
    return int(broken > 0)


def _module_of_this_process() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else sys.argv[0]
