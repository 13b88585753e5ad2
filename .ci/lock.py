"""Writes what pip has resolved as a file of constraints: python .ci/lock.py REPORT.

REPORT is of `pip install --dry-run --report`; `make lock` makes it. Libraries of accelerators are left out: JAX and
PyTorch each name the ones they need.
"""

import json
import re
import sys
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "constraints"
_OF_ACCELERATORS = re.compile(r"(nvidia|cuda|triton|libtpu)([-_]|$)")


def lines(report: dict) -> list[str]:
    """A requirement for each package that pip would install, by name."""
    found = {entry["metadata"]["name"].lower().replace("_", "-"): entry["metadata"]["version"].partition("+")[0]
             for entry in report["install"]}  # fmt: skip
    return [f"{name}=={version}" for name, version in sorted(found.items()) if not _OF_ACCELERATORS.match(name)]


def name(minor: int) -> str:
    """The file for a Python: of 3.12, newer ones share it."""
    return f"python3.{min(minor, 12)}.txt"


if __name__ == "__main__":
    path = FOLDER / name(sys.version_info.minor)
    made = f"# Made by `make lock` with Python 3.{sys.version_info.minor}, for `make install LOCKED=1`."
    path.write_text("\n".join([made, *lines(json.loads(Path(sys.argv[1]).read_text()))]) + "\n")
    print(f"wrote {path}")
