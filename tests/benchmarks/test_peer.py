"""The peer's settings: tried one on top of the other, the best kept, all told."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rankclip_jax.benchmarks import peer
from rankclip_jax.benchmarks.peer import PeerError, Setting, choose, columns_of, format_trials

WORKER = "tests.benchmarks.worker"
SETTINGS = [
    Setting("help", {"HELP": "1"}),
    Setting("harm", option="bad"),
    Setting("elsewhere", refusal="not on this processor"),
    Setting("good one", option="good"),
    Setting("broken", option="crash_at_start"),
    Setting("fragile", option="crash_at_work"),
]


def test_what_helps_is_kept_and_all_that_was_tried_is_told(tmp_path):
    with choose(WORKER, [str(tmp_path / "log")], SETTINGS) as found:
        assert found.name == "help + good one"
        assert found.seconds(2) == 4
    names = ["plain", "help", "help + harm", "elsewhere", "help + good one", "broken", "fragile"]
    assert [trial.settings for trial in found.trials] == names
    refusals = [trial.refusal for trial in found.trials if trial.refusal]
    assert refusals == ["not on this processor", "ValueError: two", "MemoryError: too large"]
    assert columns_of(found)["settings"] == "help + good one"
    assert re.search(
        r"tried: plain: 10,000 ms; help: 7,000 ms; .*elsewhere: not possible \(not on this processor\)",
        format_trials(found),
    )
    for line in (tmp_path / "log").read_text().splitlines():
        assert not is_running(int(line.split()[0]))


def test_a_peer_that_cannot_be_measured_says_why(tmp_path):
    with pytest.raises(PeerError, match=r"^no such model$"):
        choose(WORKER, [str(tmp_path / "log"), "absent"], [])
    with pytest.raises(PeerError, match=r"^the process does not start$"):
        choose("tests.benchmarks.nowhere", [], [])


def test_a_peer_works_in_its_turns_only(tmp_path):
    """Between them the system has stopped it."""
    with choose(WORKER, [str(tmp_path / "log")], []) as found:
        found.seconds(1)
        state = Path(f"/proc/{(tmp_path / 'log').read_text().splitlines()[-1].split()[0]}/stat")
        while state.read_text().rpartition(")")[2].split()[0] != "T":  # sooner or later
            time.sleep(0.01)


@pytest.mark.skipif(peer._vendor() in (None, "GenuineIntel"), reason="MKL takes its fast kernels by itself")
def test_the_library_that_unlocks_mkl_is_found_by_pytorch():
    torch = pytest.importorskip("torch")
    if not torch.backends.mkl.is_available():
        pytest.skip("this PyTorch has no MKL")
    with peer.settings_of_pytorch("cpu", trains=False) as settings:
        (unlocked,) = (setting for setting in settings if setting.name == "MKL unlocked")
        if unlocked.refusal:
            pytest.skip(unlocked.refusal)
        code = "import torch; torch.ones(64, 64) @ torch.ones(64, 64)"
        variables = os.environ | unlocked.variables | {"LD_DEBUG": "bindings"}
        said = subprocess.run(
            [sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True
        ).stderr
        library = unlocked.variables["LD_PRELOAD"].split()[-1]
    assert re.search(rf"libtorch_cpu.so \[0\] to {library} .*mkl_serv_intel_cpu_true", said)
    assert not Path(library).exists()  # it goes with the context


def is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
