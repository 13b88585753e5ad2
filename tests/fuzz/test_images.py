"""The short form of `tests.fuzz.images`."""

import subprocess
import sys

import pytest

from tests.commands import ROOT
from tests.fuzz import images


@pytest.mark.filterwarnings("ignore")  # Pillow's, of what is broken
def test_odd_and_broken_files_are_read_or_unreadable_and_start_nothing():
    summary = images.run(1500, seed=0, drawn=images.oversized())
    assert not summary.failures, "\n".join(line for line, _ in summary.failures[:5])
    assert {"JPEG RGB, read", "PNG RGB, unreadable", "TIFF RGB, read", "other format, unreadable"} <= set(
        summary.outcomes
    )


@pytest.mark.slow
def test_files_that_ask_for_much_take_a_gigabyte_and_five_seconds_at_most_and_leave_nothing_behind():
    command = [sys.executable, "-m", "tests.fuzz.images", "--count", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
