"""What is remarked on, and what is not."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from rankclip_jax.monitoring.events import Events
from rankclip_jax.training.hooks import StepInfo
from rankclip_jax.training.hooks.anomalies import AnomalyHook


@pytest.fixture
def watched(tmp_path):
    """From losses and scales of steps 1, 2, ... to the events that they make: what, and at which step."""

    def watch(losses, scales=None, every_steps=1):
        config = SimpleNamespace(logging=SimpleNamespace(every_steps=every_steps))
        hook = AnomalyHook(SimpleNamespace(experiment=SimpleNamespace(config=config), events=Events(tmp_path)))
        for step, loss in enumerate(losses, 1):
            metrics = {"loss": loss, "logit_scale": scales[step - 1] if scales else 14.3}
            hook.after_step(StepInfo(step, 1, len(losses), None, metrics))
        path = tmp_path / "events.jsonl"
        lines = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
        return [(line["event"], line["step"]) for line in lines]

    return watch


FALLING = 3 + 4 * np.exp(-np.arange(400) / 100) + np.random.default_rng(0).normal(0, 0.15, 400)


def test_a_loss_that_falls_with_noise_is_no_spike(watched):
    assert watched(FALLING) == []


def test_a_loss_that_jumps_up_is(watched, capsys):
    losses = FALLING.copy()
    losses[[250, 320]] += 3
    assert watched(losses) == [("loss_spike", 251), ("loss_spike", 321)]
    assert "note: the loss jumped to 6" in capsys.readouterr().out


def test_only_steps_that_are_logged_are_looked_at(watched):
    losses = FALLING.copy()
    losses[[252, 319]] += 3
    assert watched(losses, every_steps=10) == [("loss_spike", 320)]


def test_losses_that_are_not_finite_are_anothers_matter(watched):
    losses = FALLING.copy()
    losses[250:260] = np.nan
    assert watched(losses) == []


def test_a_scale_is_said_when_it_comes_to_its_bound(watched):
    scales = [50, 99, 100, 100, 98, 100, 100]  # CLIP's bound
    assert watched([3.0] * 7, scales) == [("logit_scale_at_bound", 3), ("logit_scale_at_bound", 6)]
