"""What a soak does in which order, and what it tells at the end."""

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.soak import harness
from tests.soak.generators import Generator
from tests.soak.harness import Broken, finish

_QUIET_SECONDS = 90.0  # more than the undisturbed run takes on two cores that nothing else uses, compilation included

Fault = Callable[[Path, Path, random.Random], str]


def order(faults: Mapping[Fault, int], draw: random.Random) -> list[Fault]:
    """One run of each kind, in the order given, which is that of their cost; then all others, drawn."""
    repeats = [fault for fault, count in faults.items() for _ in range(count - 1)]
    draw.shuffle(repeats)
    return [*faults, *repeats]


class Soak:
    """Runs faults and generators in turns until all faults are done or the time is over.

    Args:
      faults: how often each is to be drawn.
      generators: those that have turns between them.
      folder: for workdirs.
      seed: what everything is drawn from.
      end: when nothing is begun any more, by `time.monotonic`.
    """

    def __init__(
        self, faults: Mapping[Fault, int], generators: Sequence[Generator], folder: Path, seed: int, end: float
    ) -> None:
        self._faults, self._generators, self._folder, self._seed, self._end = faults, generators, folder, seed, end
        self._start = time.monotonic()
        self._kept: Counter[str] = Counter()
        self._done: Counter[str] = Counter()

    def run(self, draw: random.Random) -> None:
        """All of it."""
        turns = itertools.cycle(self._generators)
        for generator in itertools.islice(turns, len(self._generators)):
            self._turn(generator)
        undisturbed = self._folder / "undisturbed"
        if self._faults and not self._is_over():
            self._train(undisturbed)
        for number, fault in enumerate(order(self._faults, draw)):
            if self._is_over():
                return
            self._inject(fault, number, undisturbed)
            for generator in itertools.islice(turns, 1):
                self._turn(generator)
        while not self._faults and self._generators and not self._is_over():
            self._turn(next(turns))

    def _train(self, undisturbed: Path) -> None:
        """The run that nothing disturbs; how long it takes tells how patient the others must be."""
        start = time.monotonic()
        finish(undisturbed, attempts=1, seconds=3600)
        took = time.monotonic() - start
        harness.slowness = max(took / _QUIET_SECONDS, 1.0)
        busy = ": a busy machine, so deadlines are longer" if harness.slowness > 1 else ""
        print(f"the undisturbed run took {took:.0f} s{busy}", flush=True)

    def _is_over(self) -> bool:
        return time.monotonic() > self._end

    def _turn(self, generator: Generator) -> None:
        if not self._is_over():
            print(generator.take_turn(self._seed), flush=True)

    def _inject(self, fault: Fault, number: int, undisturbed: Path) -> None:
        start, name, workdir = time.monotonic(), fault.__name__, self._folder / f"run{number}"
        try:
            told, kept = fault(workdir, undisturbed, random.Random(f"{self._seed} {number}")), True
        except Broken as broken:
            told, kept = str(broken), False
        except Exception as error:  # such as a mount that is not allowed: the others go on
            told, kept = f"{type(error).__name__}: {error}", False
        self._done[name] += 1
        self._kept[name] += kept
        word = "kept" if kept else "BROKEN"
        print(f"{word}: {name}: {told} ({time.monotonic() - start:.0f} s)", flush=True)

    @property
    def is_broken(self) -> bool:
        """Whether anything did not hold."""
        return self._kept != self._done or any(generator.broken for generator in self._generators)

    def summary(self) -> Iterator[str]:
        """A line for each kind and each generator, and how far it came."""
        for fault, count in self._faults.items():
            name = fault.__name__
            yield f"{name:<32} {self._kept[name]} of {self._done[name]} kept; {count} were planned"
        for generator in self._generators:
            yield (
                f"{'tests.fuzz.' + generator.name:<32} {generator.inputs:,} inputs in {generator.turns} turns, "
                f"{generator.broken} of which broken"
            )
        minutes, planned = (time.monotonic() - self._start) / 60, sum(self._faults.values())
        tried = sum(generator.turns > 0 for generator in self._generators)
        inputs = sum(generator.inputs for generator in self._generators)
        yield (
            f"In {minutes:.1f} minutes: {len(self._done)} of {len(self._faults)} kinds of faults, "
            f"{self._done.total()} of {planned} runs, {tried} of {len(self._generators)} generators, {inputs:,} inputs"
            + ("; SOME BROKEN" if self.is_broken else "; all kept")
        )
