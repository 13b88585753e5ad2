"""One training at a time in a folder, and none kept out by one that has died."""

import signal
import socket
import subprocess
import sys

import pytest

from rankclip_jax.checkpoints.lock import Lock
from rankclip_jax.input_pipeline.errors import UserError

HOLD = (
    "import sys, time; from pathlib import Path; from rankclip_jax.checkpoints.lock import Lock\n"
    "lock = Lock(Path(sys.argv[1])); lock.take(); print('held', flush=True); time.sleep(100)"
)


def check_that_the_second_waits_for_the_death_of_the_first(place, hold):
    """``hold`` is a program that takes the lock of the place, says so and sleeps."""
    with subprocess.Popen([sys.executable, "-c", hold, str(place)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "held\n"
        said = rf"in use: process {first.pid} on {socket.gethostname()} has been training in it since 20"
        with pytest.raises(UserError, match=said), Lock(place) as lock:
            lock.take()
        first.send_signal(signal.SIGKILL)
    with Lock(place) as lock:
        lock.take()
        lock.take()  # what is held already


def test_the_second_is_told_of_the_first_until_that_is_dead(tmp_path):
    check_that_the_second_waits_for_the_death_of_the_first(tmp_path, HOLD)


def test_it_is_free_again_when_it_is_closed(tmp_path):
    for _ in range(2):
        with Lock(tmp_path) as lock:
            lock.take()
            assert (tmp_path / "lock").exists()
        assert not list(tmp_path.iterdir())
