"""Timing of several versions of a workload in turns, with the load of other processes.

All timings of the benchmarks come from `take_turns`: drift of the machine affects all versions alike, each figure has a
range, and there is no conclusion if other processes used the CPUs.
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
# A turn in which other processes used more than this fraction of the CPU time does not count.
BUSY = 0.05
_LEAST_SECONDS = 0.2  # minimum length of a turn: the kernel counts CPU time in hundredths of a second

Timed = Callable[[int], float]


@dataclasses.dataclass(frozen=True)
class ProcessorTime:
    """Seconds of CPU time since a fixed moment, over the CPUs that this process may use.

    Args:
      total: elapsed time, used or idle.
      busy: time used by any process, or stolen by another virtual machine.
      own: time used by this process and its descendants.
    """

    total: float
    busy: float
    own: float

    def share_of_others(self, later: "ProcessorTime") -> float | None:
        """Returns the fraction of CPU time until ``later`` that other processes used; None: no time has passed."""
        total = later.total - self.total
        others = (later.busy - self.busy) - (later.own - self.own)
        return min(max(others / total, 0.0), 1.0) if total > 0 else None


ReadProcessorTime = Callable[[], ProcessorTime | None]


def read_processor_time() -> ProcessorTime | None:
    """Reads the kernel's CPU time counters; None: not available (only Linux has them)."""
    try:
        allowed = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
        ticks_per_second = os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError):
        return None
    total = busy = 0
    for name, *words in lines:
        if name in allowed:
            # See proc(5); user and nice already include guest time.
            user, nice, system, idle, iowait, irq, softirq, steal = map(int, words[:8])
            busy += user + nice + system + steal
            total += user + nice + system + steal + idle + iowait + irq + softirq
    own = _ticks_of_descendants(os.getpid())
    return ProcessorTime(total / ticks_per_second, busy / ticks_per_second, own / ticks_per_second)


def _ticks_of_descendants(root: int) -> int:
    """Returns the CPU time of a process and its descendants, including ended ones that were waited for."""
    parents, ticks = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()  # the name in parentheses may hold any characters
        except OSError:  # the process has ended
            continue
        process = int(path.parent.name)
        parents[process] = int(fields[1])
        ticks[process] = sum(map(int, fields[11:15]))  # user and system, its own and of children waited for
    family = {root}
    while added := {process for process, parent in parents.items() if parent in family} - family:
        family |= added
    return sum(ticks.get(process, 0) for process in family)


class Spread(NamedTuple):
    """The minimum, median and maximum of some numbers."""

    least: float
    median: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Returns the spread of at least one number."""
        values = list(values)
        return cls(min(values), statistics.median(values), max(values))


@dataclasses.dataclass(frozen=True)
class Timings:
    """The times of several versions of a workload by turn, and the load of other processes.

    Args:
      seconds: by version, the time of each turn that counts: the quiet turns, or all if too few were quiet.
      loads: for each of these turns, the fraction of CPU time that other processes used; None: unknown.
      discarded: number of turns that do not count because other processes were active.
    """

    seconds: Mapping[str, Sequence[float]]
    loads: Sequence[float | None]
    discarded: int = 0

    @property
    def load(self) -> float | None:
        """The mean fraction of CPU time that other processes used; None: unknown."""
        measured = [load for load in self.loads if load is not None]
        return statistics.mean(measured) if measured else None

    @property
    def is_busy(self) -> bool:
        """Whether other processes used too much CPU time for a conclusion."""
        return any(load is not None and load > BUSY for load in self.loads)

    def median(self, name: str) -> float:
        """Returns the median seconds of a version."""
        return statistics.median(self.seconds[name])

    def spread(self, name: str, factor: float = 1.0) -> Spread:
        """Returns the spread of a version's turns, in seconds times ``factor``."""
        return Spread.of(factor * seconds for seconds in self.seconds[name])

    def ratio(self, name: str, to: str) -> Spread | None:
        """Returns one version's median relative to another's, with the range over turns; None: the machine was busy."""
        if self.is_busy:
            return None
        turns = Spread.of(a / b for a, b in zip(self.seconds[name], self.seconds[to], strict=True))
        return turns._replace(median=self.median(name) / self.median(to))  # which lies within that range

    def load_columns(self) -> dict[str, Any]:
        """Returns the columns about turns and load that every row of a benchmark has."""
        return {
            "turns": len(self.loads),
            "turns_discarded": self.discarded,
            "load_of_others": self.load,
            "busy": self.is_busy,
        }


def timed(work: Callable[[], Any]) -> Timed:
    """Returns a timed version of a function: it runs the work ``count`` times and returns the mean seconds.

    On accelerators executions are dispatched asynchronously, as in training. On CPUs each execution is awaited, since
    queued programs of several devices that wait for each other can exhaust the thread pool.
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
    """Measures each version, after warm-up, in ``turns`` quiet turns of at least a fifth of a second.

    Turns in which other processes were active are repeated, up to twice the requested number of turns in total.

    Args:
      versions: functions by name; each takes the number of executions and returns the mean seconds.
      count: minimum number of executions per turn.
      read: reads the CPU time; None: `read_processor_time`.
      turns: requested number of turns.
    """
    read = read or read_processor_time
    counts = {}
    for name, take in versions.items():
        take(1)  # one-time costs: compilation, buffers, caches
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
    """Returns the columns of a spread: the median under ``name``, and its range; None: no conclusion."""
    return {name: spread and spread.median, f"{name}_range": spread and [spread.least, spread.most]}


def format_spread(spread: Spread | None, form: str = ",.1f") -> str:
    """Formats a spread as ``1.9 (1.8 to 2.1)``, and None as ``-``."""
    return f"{spread.median:{form}} ({spread.least:{form}} to {spread.most:{form}})" if spread else "-"


def format_row(row: Mapping[str, Any], name: str, form: str = ",.1f") -> str:
    """Formats the spread that `columns` put into a row; see `format_spread`."""
    median, ends = row[name], row[f"{name}_range"]
    return format_spread(median if median is None else Spread(ends[0], median, ends[1]), form)


def conclusion(*timings: Timings) -> str | None:
    """Returns a warning for below a table if the machine was busy or its load is unknown; None: it was quiet."""
    busy = [timing.load or 0.0 for timing in timings if timing.is_busy]
    if busy:
        return (
            f"The machine was busy: other processes used {max(busy):.0%} of its CPU time; no conclusion. "
            "Stop them and run the command again."
        )
    if any(timing.load is None for timing in timings):
        return "note: the load of other processes is not available on this system; make sure that none is active."
    return None


def print_conclusion(*timings: Timings) -> None:
    """Prints the warning of `conclusion`, if any."""
    if text := conclusion(*timings):
        print(text, flush=True)
