"""How fast a run trains."""

import time


class Clock:
    """Pairs per second since the last reading; what is not training is left out by `restart`.

    Args:
      step: updates done.
      pairs_per_step: over all devices.
    """

    def __init__(self, step: int, pairs_per_step: int) -> None:
        self._pairs_per_step = pairs_per_step
        self.restart(step)

    def restart(self, step: int) -> None:
        """Counts from here: what came since the last reading was not training."""
        self._step, self._time = step, time.perf_counter()

    def read(self, step: int) -> float:
        """Pairs per second since the last reading or restart, and counts from here."""
        pairs, seconds = (step - self._step) * self._pairs_per_step, time.perf_counter() - self._time
        self.restart(step)
        return pairs / max(seconds, 1e-9)
