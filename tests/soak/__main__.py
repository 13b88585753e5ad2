"""Injects faults into runs of two processes and compares what becomes of them with a run that nothing disturbed.

python -m tests.soak [--minutes 30] [--seed 0] [--only a_signal]
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.soak.faults import FAULTS
from tests.soak.harness import Broken, finish


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--minutes", type=float, default=30, help="begin no other run after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=[fault.__name__ for fault in FAULTS])
    parser.add_argument("--runs", type=int, default=0, help="of each fault; as many as a whole soak has unless given")
    words = parser.parse_args()
    end = time.monotonic() + 60 * words.minutes
    draw = random.Random(words.seed)
    runs = [
        fault
        for fault, count in FAULTS.items()
        if words.only in (None, fault.__name__)
        for _ in range(words.runs or count)
    ]
    draw.shuffle(runs)
    done: dict[str, list[bool]] = {}
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Path(folder) / "undisturbed"
        finish(undisturbed, attempts=1)
        for number, fault in enumerate(runs):
            if time.monotonic() > end:
                print(f"{len(runs) - number} of {len(runs)} runs are left out: {words.minutes:g} minutes are over")
                break
            start, workdir = time.monotonic(), Path(folder) / f"run{number}"
            try:
                told, kept = fault(workdir, undisturbed, random.Random(f"{words.seed} {number}")), True
            except Broken as broken:
                told, kept = str(broken), False
            done.setdefault(fault.__name__, []).append(kept)
            print(
                f"{'kept' if kept else 'BROKEN'}: {fault.__name__}: {told} ({time.monotonic() - start:.0f} s)",
                flush=True,
            )
    for name, results in done.items():
        print(f"{name:<24} {sum(results)} of {len(results)} kept")
    sys.exit(not all(all(results) for results in done.values()))


if __name__ == "__main__":
    main()
