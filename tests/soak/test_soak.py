"""The short form of `make soak`: a run of each kind of fault that leaves a run broken off."""

import random

import pytest

from tests.soak import faults
from tests.soak.harness import finish

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("soak") / "undisturbed"
    finish(workdir, attempts=1)
    return workdir


@pytest.mark.parametrize(
    "fault",
    [faults.a_signal, faults.a_kill_during_a_save, faults.a_damaged_checkpoint],
    ids=lambda fault: fault.__name__,
)
def test_a_run_ends_as_if_nothing_had_happened_to_it(fault, undisturbed, tmp_path):
    """The signal is a SIGTERM to one of the processes, during an evaluation."""
    told = fault(tmp_path / "run", undisturbed, random.Random(16))
    assert fault is not faults.a_signal or told == "SIGTERM of [1] at evaluation"
