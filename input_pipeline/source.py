"""What the loader reads: a dataset, or several as one."""

import bisect
import dataclasses
import itertools
from typing import Protocol


class Source(Protocol):
    """A dataset: item ``i`` is ``{"image": Path, bytes or uint8 pixels, "text": str or several}``.

    Reading an item raises `UnreadableError` where the record is damaged.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict: ...


def captions(record: dict) -> list[str]:
    """All captions of a record, at least one."""
    return [record["text"]] if isinstance(record["text"], str) else list(record["text"])


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Datasets one after the other; training draws from each in proportion to its weight.

    Args:
      weights: of each part, positive; they need not sum to 1.
    """

    parts: tuple[Source, ...]
    weights: tuple[float, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: int) -> dict:
        ends = list(itertools.accumulate(map(len, self.parts)))
        part = bisect.bisect_right(ends, index)
        return self.parts[part][index - (ends[part - 1] if part else 0)]
