"""Profiles of the steps that were asked for, by settings and by a signal."""

import dataclasses
import gzip
import json
import re
import signal

import jax
import pytest

from rankclip_jax.monitoring import summary_figure
from rankclip_jax.planning import hardware
from rankclip_jax.planning.plan import useful_flops
from rankclip_jax.training import attempt, loop
from rankclip_jax.training.step import trace_step
from tests.training.conftest import one_device, read_metrics, small


def traced_steps(workdir):
    """The steps in each trace, of the events that mark them."""
    folders = sorted((workdir / "profile").iterdir(), key=lambda folder: int(folder.name.removeprefix("from_step_")))
    for path in (next(folder.rglob("*.trace.json.gz")) for folder in folders):
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
        yield [int(event["args"]["step_num"]) for event in events if "step_num" in event.get("args", {})]


def test_steps_are_traced_by_settings_and_by_a_signal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(summary_figure, "draw", lambda *_: "")
    real = attempt.device_batches

    def batches(*arguments):
        for number, batch in enumerate(real(*arguments), 1):
            if number == 9:
                signal.raise_signal(signal.SIGUSR2)
            yield batch

    monkeypatch.setattr(attempt, "device_batches", batches)
    config = small(logging__profile_steps=(1, 2), data__validation_examples=0, checkpoint__every_steps=100)
    loop.train(config, tmp_path, mesh=one_device())
    first, second = traced_steps(tmp_path)
    assert sorted(set(first)) == [1, 2]
    assert sorted(set(second)) in ([9, 10, 11, 12, 13], [10, 11, 12, 13, 14])
    assert re.search(r"profile up to step 2: .*/profile", capsys.readouterr().out)
    times = read_metrics(tmp_path)[5]
    assert times["step_seconds"] >= times["input_seconds"] >= 0
    assert "mfu" not in times  # of a device whose peak is not known


def test_mfu_is_useful_operations_by_the_time_and_the_peak(tmp_path, monkeypatch):
    kind = jax.devices()[0].device_kind
    monkeypatch.setitem(hardware.ACCELERATORS, "here", dataclasses.replace(hardware.GPUS["l40s"], name=kind))
    config = small(train__steps=4, data__validation_examples=0)
    loop.train(config, tmp_path, mesh=one_device())
    operations = useful_flops(trace_step, config, jax.devices()[:1])
    for line in read_metrics(tmp_path):
        assert line["mfu"] == pytest.approx(operations / line["step_seconds"] / 362e12)
