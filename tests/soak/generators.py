"""The modules of tests/fuzz as commands: ``python -m tests.fuzz.NAME --count N --seed S``, exit status 1 on failure."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

from tests.soak.harness import ROOT

_FIRST_COUNT = 100
_TURN_SECONDS = 10  # a turn that took less is followed by one of twice as many inputs
_PATIENCE = 900  # seconds after which a turn is broken off: an input hangs
_SHOWN = 4000  # of a broken turn's last letters


@dataclasses.dataclass
class Generator:
    """One such command, and what came of it so far.

    Args:
      name: of its module.
      count: inputs of the next turn.
      turns: how many it had.
      inputs: how many were drawn.
      broken: turns that failed.
    """

    name: str
    count: int = _FIRST_COUNT
    turns: int = 0
    inputs: int = 0
    broken: int = 0

    def take_turn(self, seed: int) -> str:
        """Draws inputs that were not drawn before; what is to be told."""
        words = ["-m", f"tests.fuzz.{self.name}", "--count", str(self.count), "--seed", str(1000 * seed + self.turns)]
        start, drawn = time.monotonic(), self.count
        try:
            done = subprocess.run(
                [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=_PATIENCE, check=False
            )
            status, said = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired as expired:
            status, said = -1, f"it does not end\n{(expired.stdout or b'').decode(errors='replace')}"
        took = time.monotonic() - start
        self.turns, self.inputs, self.broken = self.turns + 1, self.inputs + drawn, self.broken + bool(status)
        if took < _TURN_SECONDS:
            self.count *= 2
        told = f"tests.fuzz.{self.name}: {drawn:,} inputs ({took:.0f} s)"
        return f"BROKEN: {told}: python {' '.join(words)}\n{said[-_SHOWN:]}" if status else f"kept: {told}"


def discover(folder: Path = ROOT / "tests" / "fuzz") -> list[Generator]:
    """Those modules that are commands, by name."""
    paths = sorted(path for path in folder.glob("*.py") if not path.name.startswith("test_"))
    return [Generator(path.stem) for path in paths if '__name__ == "__main__"' in path.read_text(encoding="utf8")]
