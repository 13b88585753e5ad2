"""Printing to the terminal: plain lines, a progress line and durations."""

import sys

from rankclip_jax.input_pipeline.files import printable

_MAX_LINE_LENGTH = 10_000  # characters


def say(text: str) -> None:
    """Prints lines that replace the current progress line in a terminal; strips control characters."""
    text = "\n".join(printable(line, _MAX_LINE_LENGTH) for line in text.split("\n"))
    print(f"\r\x1b[K{text}" if sys.stdout.isatty() else text, flush=True)


def renew(line: str) -> None:
    """Prints a progress line: overwrites the previous one in a terminal, starts a new line elsewhere."""
    line = printable(line, _MAX_LINE_LENGTH)
    if sys.stdout.isatty():
        print(f"\r\x1b[K{line}", end="", flush=True)
    else:
        print(line, flush=True)


def format_duration(seconds: float) -> str:
    """Returns a duration as text: ``"1 h 05 min"``, ``"2 min 10 s"`` or ``"7 s"``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"
