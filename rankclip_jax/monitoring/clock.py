"""The throughput of a run in pairs per second."""

import time


class Clock:
    """Measures pairs per second since the last reading; `restart` excludes time that is not training.

    Args:
      step: updates done.
      pairs_per_step: the global batch size.
    """

    def __init__(self, step: int, pairs_per_step: int) -> None:
        self._pairs_per_step = pairs_per_step
        self.restart(step)

    def restart(self, step: int) -> None:
        """Restarts the measurement, to exclude the time since the last reading."""
        self._step, self._time = step, time.perf_counter()

    def read(self, step: int) -> float:
        """Returns pairs per second since the last reading or restart, and restarts the measurement."""
        pairs, seconds = (step - self._step) * self._pairs_per_step, time.perf_counter() - self._time
        self.restart(step)
        return pairs / max(seconds, 1e-9)
