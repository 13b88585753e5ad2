"""What the main thread of a run is in, and how long each kind of it has taken so far."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple


class Span(NamedTuple):
    """A thing that is under way: one of `goodput.CAUSES`, in words, and since when on the monotonic clock."""

    cause: str
    words: str
    since: float


class Timeline:
    """Read by other threads: the one that ends what stands still, and the one that tells those outside."""

    def __init__(self) -> None:
        self.step = 0  # updates done
        self.doing: Span | None = None
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def span(self, cause: str, words: str) -> Iterator[None]:
        """The time that a thing takes; not inside of another."""
        doing = self.doing = Span(cause, words, time.monotonic())
        try:
            yield
        finally:
            self.doing = None
            self.add(cause, time.monotonic() - doing.since)

    def add(self, cause: str, seconds: float) -> None:
        """Counts time that was measured otherwise."""
        self._seconds[cause] += seconds

    def seconds(self) -> defaultdict[str, float]:
        """By cause, with what the thing under way has taken so far."""
        doing, seconds = self.doing, self._seconds.copy()
        if doing:
            seconds[doing.cause] += time.monotonic() - doing.since
        return seconds
