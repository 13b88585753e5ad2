"""Counts records that could not be read, names them in the log, and ends a run that has too many."""

import logging
from collections.abc import Callable

from .errors import UserError

_LOGGER = logging.getLogger(__name__)
_SAMPLE = 1000  # records seen before the share is judged, unless the dataset is smaller
_NAMED = 20  # in the error


class UnreadableTally:
    """A running count over the records of all processes.

    Args:
      max_share: share of unreadable records, in [0, 1], above which the run stops.
      dataset_size: number of records in the dataset.
      every_batches: how often the processes' counts are summed and judged; the first batch is, too.
      sum_across_processes: from this process's counts to those of all processes.
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
        self._max_share, self._every_batches, self._sum_over_all = max_share, every_batches, sum_across_processes
        self._judged_from = min(_SAMPLE, dataset_size)
        self._everywhere = 0

    @property
    def count(self) -> int:
        """Records of all processes that could not be read, as of the last time that they were judged."""
        return self._everywhere

    def add(self, unreadable: list[str], records: int) -> None:
        """Counts a batch of ``records``, in which ``unreadable`` ones were replaced; logs each once.

        Raises:
          UserError: too large a share cannot be read; on all processes at once.
        """
        for line in unreadable:
            if line not in self._names:
                _LOGGER.warning("unreadable record replaced by another: %s", line)
                self._names.add(line)
        self._count += len(unreadable)
        self._tried += records + len(unreadable)
        if self._batches % self._every_batches == 0:
            self._judge()
        self._batches += 1

    def _judge(self) -> None:
        self._everywhere, tried = self._sum_over_all([self._count, self._tried])
        if tried < self._judged_from or self._everywhere <= self._max_share * tried:
            return
        listed = sorted(self._names)
        more = f", and {len(listed) - _NAMED} more" if len(listed) > _NAMED else ""
        raise UserError(
            f"config.data.max_unreadable_fraction: {self._everywhere} of {tried} records could not be read, more than "
            f"{self._max_share:.2%}: {'; '.join(listed[:_NAMED])}{more}. Fix or remove these files, or allow more "
            "with --config.data.max_unreadable_fraction=SHARE."
        )
