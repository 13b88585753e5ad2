"""The timeline of a run: the current activity of its main thread, and the time spent on each cause."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple


class Span(NamedTuple):
    """An activity in progress: its cause (a key of `goodput.CAUSES`), a description, and its monotonic start time."""

    cause: str
    words: str
    since: float


class Timeline:
    """Records the main thread's activities; the threads of the watchdog and the heartbeat read it."""

    def __init__(self) -> None:
        self.step = 0  # updates done
        self.doing: Span | None = None
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def span(self, cause: str, words: str) -> Iterator[None]:
        """A context whose duration counts for a cause; contexts must not be nested."""
        doing = self.doing = Span(cause, words, time.monotonic())
        try:
            yield
        finally:
            self.doing = None
            self.add(cause, time.monotonic() - doing.since)

    def add(self, cause: str, seconds: float) -> None:
        """Adds time that was measured elsewhere."""
        self._seconds[cause] += seconds

    def seconds(self) -> defaultdict[str, float]:
        """Returns the seconds by cause, including the activity in progress."""
        doing, seconds = self.doing, self._seconds.copy()
        if doing:
            seconds[doing.cause] += time.monotonic() - doing.since
        return seconds
