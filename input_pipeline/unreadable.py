"""Counts records that could not be read, names them in the log, and ends a run that has too many."""

import logging

from input_pipeline.errors import UserError

_LOGGER = logging.getLogger(__name__)
_SAMPLE = 1000  # records seen before the share is judged, unless the dataset is smaller


class UnreadableTally:
    """A running count over the records of one process.

    ``count`` is how many could not be read, ``tried`` how many were read or not.

    Args:
      max_share: share of unreadable records, in [0, 1], above which the run stops.
      dataset_size: number of records in the dataset.
    """

    def __init__(self, max_share: float, dataset_size: int) -> None:
        self.count = 0
        self.tried = 0
        self._names: set[str] = set()
        self._max_share = max_share
        self._judged_from = min(_SAMPLE, dataset_size)

    def add(self, unreadable: list[str], records: int) -> None:
        """Counts a batch of ``records``, in which ``unreadable`` ones were replaced; logs each once."""
        for line in unreadable:
            if line not in self._names:
                _LOGGER.warning("unreadable record replaced by another: %s", line)
                self._names.add(line)
        self.count += len(unreadable)
        self.tried += records + len(unreadable)

    def judge(self, count: int, tried: int) -> None:
        """Judges the counts of all processes together, the same on each of them.

        Raises:
          UserError: too large a share cannot be read.
        """
        if tried >= self._judged_from and count > self._max_share * tried:
            listed = sorted(self._names)
            more = f", and {len(listed) - 20} more" if len(listed) > 20 else ""
            raise UserError(
                f"config.data.max_unreadable_share: {count} of {tried} records could not be read, more than "
                f"{self._max_share:.2%}: {'; '.join(listed[:20])}{more}. Mend or remove these files, or allow more "
                "with --config.data.max_unreadable_share=SHARE."
            )
