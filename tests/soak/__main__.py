"""Injects faults into runs of two processes and compares what becomes of them with a run that nothing disturbed.

python -m tests.soak [--minutes 30] [--seed 0] [--only a_signal] [--runs 1]

The first minutes tell the most: the random generators of tests/fuzz first, then one run of each kind of fault, the
cheapest first, then repeats; between two faults a generator has its turn. Nothing is begun when the minutes are over,
and the last lines say how far it came.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.soak import generators
from tests.soak.faults import FAULTS
from tests.soak.soak import Soak


def main() -> int:
    found = generators.discover()
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--minutes", type=float, default=30, help="begin nothing after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=[*(fault.__name__ for fault in FAULTS), *(one.name for one in found)])
    parser.add_argument("--runs", type=int, default=0, help="of each fault; as many as a whole soak has unless given")
    words = parser.parse_args()
    faults = {fault: words.runs or count for fault, count in FAULTS.items() if words.only in (None, fault.__name__)}
    found = [one for one in found if words.only in (None, one.name)]
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(faults, found, Path(folder), words.seed, end=time.monotonic() + 60 * words.minutes)
        soak.run(random.Random(words.seed))
    for line in soak.summary():
        print(line)
    return int(soak.is_broken)


if __name__ == "__main__":
    sys.exit(main())
