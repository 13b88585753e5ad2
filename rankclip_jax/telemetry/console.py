"""Lines for the person who waits."""

import sys


def say(line: str) -> None:
    """A line of its own, below one that renews itself."""
    print(f"\r\x1b[K{line}" if sys.stdout.isatty() else line, flush=True)


def renew(line: str) -> None:
    """One line that renews itself in a terminal; a new line each time elsewhere."""
    if sys.stdout.isatty():
        print(f"\r\x1b[K{line}", end="", flush=True)
    else:
        print(line, flush=True)
