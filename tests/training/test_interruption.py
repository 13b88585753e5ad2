"""Where a run that was told to stop stops."""

import threading

import jax
import pytest

from rankclip_jax.training.hooks import StepInfo
from rankclip_jax.training.hooks.interruption import Interrupted, InterruptHook


@pytest.mark.parametrize("processes", [1, 2])
def test_several_processes_stop_where_all_come_and_one_at_once(processes, monkeypatch):
    """After a step another may be on its way to the next, and exchange numbers with this one before it."""
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    saved = []
    interruption = InterruptHook(lambda info: saved.append(info.step) or info.step, patience=9, deadline=9)
    interruption.before_step(1)
    interruption._stopping._last = 1  # as agreed while the step is made
    if processes == 1:
        with pytest.raises(Interrupted):
            interruption.after_step(StepInfo(1, 1, 9, None, {}))
    else:
        interruption.after_step(StepInfo(1, 1, 9, None, {}))
        assert not saved
        with pytest.raises(Interrupted):
            interruption.before_step(1)
    assert saved == [1]


def test_the_listening_thread_is_gone_when_the_run_has_ended():
    """It owns the last state; freed while Python ends, JAX's arrays would abort the process."""
    before = set(threading.enumerate())
    with InterruptHook(lambda info: info.step, patience=9, deadline=9) as interruption:
        interruption.before_step(1)
        interruption.after_step(StepInfo(1, 1, 9, None, {}))
        assert set(threading.enumerate()) - before
    assert not set(threading.enumerate()) - before
