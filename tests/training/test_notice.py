"""A signal where no step ends: in an evaluation that hangs, while no batch comes."""

import signal
import threading
import time

import pytest

from rankclip_jax.checkpoints.workdir import saved_steps
from rankclip_jax.evaluation.evaluator import Evaluator
from rankclip_jax.training import attempt
from tests.training.conftest import assert_bit_identical, final_state, train_small


def hang():
    """Longer than any test may take, as a wait that a signal's handler can end."""
    signal.raise_signal(signal.SIGTERM)
    threading.Event().wait(300)


def test_an_evaluation_is_broken_off(tmp_path, monkeypatch):
    start = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "__call__", lambda *_: hang())
        outcome = train_small(
            tmp_path / "run",
            evaluation__every_steps=7,
            checkpoint__every_steps=1000,
            checkpoint__patience_seconds=0.5,
        )
    assert (outcome.step, outcome.finished, outcome.signal_number) == (7, False, signal.SIGTERM)
    assert saved_steps(tmp_path / "run") == [7]
    assert time.monotonic() - start < 100


@pytest.mark.slow
def test_a_wait_for_data_is_broken_off_and_the_run_goes_on_as_if_nothing_had_been(tmp_path, monkeypatch):
    real = attempt.device_batches

    def stuck(*arguments):
        for number, batch in enumerate(real(*arguments)):
            if number == 12:
                hang()
            yield batch

    changes = {"checkpoint__every_steps": 1000, "checkpoint__patience_seconds": 0.5}
    with monkeypatch.context() as patch:
        patch.setattr(attempt, "device_batches", stuck)
        assert train_small(tmp_path / "run", **changes).step == 12
    assert saved_steps(tmp_path / "run") == [12]
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]
    assert train_small(tmp_path / "run", **changes).finished
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)] == before
    train_small(tmp_path / "plain", **changes)
    assert_bit_identical(final_state(tmp_path / "run"), final_state(tmp_path / "plain"))
