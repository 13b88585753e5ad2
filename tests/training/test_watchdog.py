"""A run that stands still: it ends by itself, and says in what."""

import socket
import time

import numpy as np
import pytest
from PIL import Image

from rankclip_jax.monitoring.timeline import Timeline
from rankclip_jax.monitoring.watchdog import Watchdog
from tests.commands import run
from tests.training.conftest import SMALL_FLAGS

# Run by Python at the start of every process.
NEVER_OPENS = """
import os, time
real = os.open
os.open = lambda path, *rest, **more: time.sleep(3600) if str(path).endswith("77.png") else real(path, *rest, **more)
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_reader_that_is_stuck_ends_the_run_with_the_stack_of_every_thread(workers, tmp_path, monkeypatch):
    """One image never opens, as on a file server that does not answer; also in the processes that decode."""
    numbers = np.random.default_rng(0)
    for number in range(200):
        Image.fromarray(numbers.integers(0, 255, (32, 32, 3), np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "sitecustomize.py").write_text(NEVER_OPENS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    rows = ["filepath\ttitle", *(f"{number}.png\ta picture of {number}" for number in range(200))]
    (tmp_path / "train.csv").write_text("\n".join(rows))
    flags = [*SMALL_FLAGS, "--config.data.source=csv", f"--config.data.train={tmp_path / 'train.csv'}",
             "--config.data.validation=", "--config.data.validation_examples=0", f"--config.data.workers={workers}",
             "--config.objective.name=clip", "--config.processes.hang_seconds=5"]  # fmt: skip
    said = run("train", *flags, "--workdir", tmp_path / "run", status=1).stderr
    assert f"{socket.gethostname()}, process 0: the wait for the " in said
    assert "batch" in said.partition("has taken longer than 5 seconds")[0]
    assert "batches.py" in said.partition("Stacks of all threads")[2]


def test_what_goes_on_is_left_alone():
    """Though the whole takes longer than one thing may; or else this process, the tests', would end."""
    timeline = Timeline()
    with Watchdog(timeline, 0.5):
        for number in range(15):
            with timeline.span("step", f"thing {number}"):
                time.sleep(0.1)
        time.sleep(1)
