"""Counts unreadable records, logs them, and stops a run that has too many."""

import logging
from collections.abc import Callable

from .errors import UserError

_LOGGER = logging.getLogger(__name__)
_SAMPLE = 1000  # minimum number of records before the fraction is checked, unless the dataset is smaller
_NAMED = 20  # records in the error message


class UnreadableTally:
    """A running count of unreadable records over all processes.

    Args:
      max_share: the fraction of unreadable records, in [0, 1], above which the run stops.
      dataset_size: number of records in the dataset.
      every_batches: the interval of summing and checking the counts, from the first batch on.
      sum_across_processes: sums counts over all processes.
    """

    def __init__(
        self,
        max_share: float,
        dataset_size: int,
        *,
        every_batches: int = 1,
        sum_across_processes: Callable[[list[int]], list[int]] = lambda counts: counts,
    ) -> None:
        self._count = self._tried = self._batches = 0
        self._names: set[str] = set()
        self._max_share, self._every_batches, self._sum_across_processes = (
            max_share,
            every_batches,
            sum_across_processes,
        )
        self._min_records = min(_SAMPLE, dataset_size)
        self._everywhere = 0

    @property
    def count(self) -> int:
        """The number of unreadable records of all processes, as of the last check."""
        return self._everywhere

    def add(self, unreadable: list[str], records: int) -> None:
        """Counts a batch of ``records``, in which ``unreadable`` ones were replaced; logs each once.

        Raises:
          UserError: too many records are unreadable; raised on all processes together.
        """
        for line in unreadable:
            if line not in self._names:
                _LOGGER.warning("unreadable record replaced by another: %s", line)
                self._names.add(line)
        self._count += len(unreadable)
        self._tried += records + len(unreadable)
        if self._batches % self._every_batches == 0:
            self._check()
        self._batches += 1

    def _check(self) -> None:
        self._everywhere, tried = self._sum_across_processes([self._count, self._tried])
        if tried < self._min_records or self._everywhere <= self._max_share * tried:
            return
        listed = sorted(self._names)
        more = f", and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
        raise UserError(
            f"config.data.max_unreadable_fraction: {self._everywhere} of {tried} records could not be read, more than "
            f"{self._max_share:.2%}: {'; '.join(listed[:_NAMED])}{more}. Fix or remove these files, or allow more "
            "with --config.data.max_unreadable_fraction=FRACTION."
        )
