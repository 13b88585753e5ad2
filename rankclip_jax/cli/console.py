"""Lines for the person who waits: printing and formatting."""

import sys

from rankclip_jax.input_pipeline.files import printable

_LONGEST = 10_000  # characters of a line


def say(text: str) -> None:
    """Lines of their own, below one that renews itself; without control characters, whatever they quote."""
    text = "\n".join(printable(line, _LONGEST) for line in text.split("\n"))
    print(f"\r\x1b[K{text}" if sys.stdout.isatty() else text, flush=True)


def renew(line: str) -> None:
    """One line that renews itself in a terminal; a new line each time elsewhere."""
    line = printable(line, _LONGEST)
    if sys.stdout.isatty():
        print(f"\r\x1b[K{line}", end="", flush=True)
    else:
        print(line, flush=True)


def format_duration(seconds: float) -> str:
    """``"1 h 05 min"``, ``"2 min 10 s"``, ``"7 s"``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
