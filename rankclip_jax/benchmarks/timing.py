"""Versions of a piece of work, measured in turns, with the load that other processes put on the machine meanwhile.

Everything that a benchmark says of time passes through `take_turns`: a drifting machine is fair to all versions, each
figure comes with its range, and where other processes took the processors nothing is concluded.
"""

import dataclasses
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

TURNS = 5
# A turn in which other processes took more than this share of the processors' time does not count.
BUSY = 0.05
_LEAST_SECONDS = 0.2  # of a turn: processors' time is counted in hundredths of a second

Timed = Callable[[int], float]


@dataclasses.dataclass(frozen=True)
class ProcessorTime:
    """Seconds of processor time since some moment, over the processors that this process may use.

    Args:
      total: that passed, used or not.
      busy: that any process used, or another virtual machine took.
      own: that this process and its descendants used.
    """

    total: float
    busy: float
    own: float

    def share_of_others(self, later: "ProcessorTime") -> float | None:
        """The part of the time until ``later`` that went to other processes, in [0, 1]; None: no time has passed."""
        total = later.total - self.total
        others = (later.busy - self.busy) - (later.own - self.own)
        return min(max(others / total, 0.0), 1.0) if total > 0 else None


ReadProcessorTime = Callable[[], ProcessorTime | None]


def read_processor_time() -> ProcessorTime | None:
    """What the kernel has counted so far; None where it does not tell (only Linux does)."""
    try:
        allowed = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
        ticks_per_second = os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return None
    total = busy = 0
    for name, *words in lines:
        if name in allowed:
            # proc(5); time of guests is counted in user and nice already.
            user, nice, system, idle, iowait, irq, softirq, steal = map(int, words[:8])
            busy += user + nice + system + steal
            total += user + nice + system + steal + idle + iowait + irq + softirq
    own = _ticks_of_descendants(os.getpid())
    return ProcessorTime(total / ticks_per_second, busy / ticks_per_second, own / ticks_per_second)


def _ticks_of_descendants(root: int) -> int:
    """Processor time of a process and of all below it, those that have ended and were waited for included."""
    parents, ticks = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()  # the name before it may hold anything
        except OSError:  # it has ended meanwhile
            continue
        process = int(path.parent.name)
        parents[process] = int(fields[1])
        ticks[process] = sum(map(int, fields[11:15]))  # user and system, its own and of children waited for
    family = {root}
    while added := {process for process, parent in parents.items() if parent in family} - family:
        family |= added
    return sum(ticks.get(process, 0) for process in family)


class Spread(NamedTuple):
    """The least, the median and the most of some numbers."""

    least: float
    median: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Of these numbers, of which there is at least one."""
        values = list(values)
        return cls(min(values), statistics.median(values), max(values))


@dataclasses.dataclass(frozen=True)
class Timings:
    """What versions of a piece of work took, turn by turn, and what other processes took meanwhile.

    Args:
      seconds: by version, of each turn that counts: the quiet ones, or all where too few were quiet.
      loads: of each of these turns, the share of processor time that went to other processes; None: not known.
      discarded: how many turns did not count because other processes were at work.
    """

    seconds: Mapping[str, Sequence[float]]
    loads: Sequence[float | None]
    discarded: int = 0

    @property
    def load(self) -> float | None:
        """Mean share of processor time that went to other processes; None: not known."""
        known = [load for load in self.loads if load is not None]
        return statistics.mean(known) if known else None

    @property
    def is_busy(self) -> bool:
        """Whether other processes took too much of the machine to conclude anything."""
        return any(load is not None and load > BUSY for load in self.loads)

    def median(self, name: str) -> float:
        """Median seconds of a version."""
        return statistics.median(self.seconds[name])

    def spread(self, name: str, factor: float = 1.0) -> Spread:
        """The turns of a version, in seconds times ``factor``."""
        return Spread.of(factor * seconds for seconds in self.seconds[name])

    def ratio(self, name: str, to: str) -> Spread | None:
        """One version's median as a multiple of another's, and the range over turns; None: it was too busy to say."""
        if self.is_busy:
            return None
        turns = Spread.of(a / b for a, b in zip(self.seconds[name], self.seconds[to], strict=True))
        return turns._replace(median=self.median(name) / self.median(to))  # which lies within that range

    def load_columns(self) -> dict[str, Any]:
        """What every row of a benchmark tells of its turns."""
        return {
            "turns": len(self.loads),
            "turns_discarded": self.discarded,
            "load_of_others": self.load,
            "busy": self.is_busy,
        }


def timed(work: Callable[[], Any]) -> Timed:
    """Makes a version of a function: it does the work so many times and tells the mean seconds, until all is done.

    Accelerators are given the next work while they are at the last, as in training. CPUs are not: programs of several
    devices that wait for each other in one queue can take all its threads.
    """

    def take(count: int) -> float:
        on_cpus = jax.default_backend() == "cpu"
        start = time.perf_counter()
        for _ in range(count):
            results = work()
            if on_cpus:
                jax.block_until_ready(results)
        jax.block_until_ready(results)
        return (time.perf_counter() - start) / count

    return take


def take_turns(
    versions: Mapping[str, Timed], count: int = 1, read: ReadProcessorTime | None = None, turns: int = TURNS
) -> Timings:
    """Measures each version, once warm, in ``turns`` quiet turns of at least a fifth of a second.

    A turn in which other processes were at work is taken again, until there are twice as many turns as are wanted.

    Args:
      versions: by name; called with how often to do the work, each tells the seconds of once.
      count: how often a version does its work in a turn, at least.
      read: reads the processors' time; None: `read_processor_time`.
      turns: how many are wanted.
    """
    read = read or read_processor_time
    counts = {}
    for name, take in versions.items():
        take(1)  # what is done once only: compilation, buffers, caches
        start = time.perf_counter()
        take(1)
        counts[name] = max(count, math.ceil(_LEAST_SECONDS / (time.perf_counter() - start)))
    quiet: list[tuple[dict[str, float], float | None]] = []
    busy: list[tuple[dict[str, float], float | None]] = []
    while len(quiet) < turns and len(quiet) + len(busy) < 2 * turns:
        seconds, loads = {}, []
        for name, take in versions.items():
            before = read()
            seconds[name] = take(counts[name])
            after = read()
            loads.append(before.share_of_others(after) if before and after else None)
        load = max((load for load in loads if load is not None), default=None)
        (busy if load is not None and load > BUSY else quiet).append((seconds, load))
    taken = quiet if len(quiet) >= turns else quiet + busy
    return Timings(
        {name: [seconds[name] for seconds, _ in taken] for name in versions},
        [load for _, load in taken],
        discarded=len(busy) if taken is quiet else 0,
    )


def columns(name: str, spread: Spread | None) -> dict[str, Any]:
    """A spread in a row of JSON: the median under ``name``, and its range beside it; None: nothing is concluded."""
    return {name: spread and spread.median, f"{name}_range": spread and [spread.least, spread.most]}


def format_spread(spread: Spread | None, form: str = ",.1f") -> str:
    """A spread as ``1.9 (1.8 to 2.1)``; None, where nothing is concluded, as ``-``."""
    return f"{spread.median:{form}} ({spread.least:{form}} to {spread.most:{form}})" if spread else "-"


def format_row(row: Mapping[str, Any], name: str, form: str = ",.1f") -> str:
    """The same of what `columns` put into a row."""
    median, ends = row[name], row[f"{name}_range"]
    return format_spread(median if median is None else Spread(ends[0], median, ends[1]), form)


def conclusion(*timings: Timings) -> str | None:
    """What is to be said beneath a table: that the machine was busy, or that nobody knows; None: all was quiet."""
    busy = [some.load or 0.0 for some in timings if some.is_busy]
    if busy:
        return (
            f"The machine was busy: {max(busy):.0%} of its time went to other processes; no conclusion. "
            "Stop them and repeat the command."
        )
    if any(some.load is None for some in timings):
        return "note: this system does not tell what other processes take of it; make sure that none is at work."
    return None


def print_conclusion(*timings: Timings) -> None:
    """Prints the same, if there is anything to be said."""
    if text := conclusion(*timings):
        print(text, flush=True)
