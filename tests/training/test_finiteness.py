"""Steps that are not finite: stopped at, left out, or gone back from; and what is recorded of them."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.training import compilation, loop
from tests.training.conftest import assert_bit_identical, final_state, one_device, read_metrics, train_small

BAD = 8


@pytest.fixture
def poison(monkeypatch):
    """Makes a parameter NaN before step 8, the first time or every time."""
    compile_real = compilation.compile_step

    def make(always=True):
        left = [1]

        def compile_poisoned(experiment, announce):
            step = compile_real(experiment, announce)

            def poisoned(state, batch):
                with jax.transfer_guard("allow"):
                    if int(state.step) + 1 == BAD and (always or left):
                        left.clear()
                        state = state.replace(
                            parameters=state.parameters | {"vision": spoil(state.parameters["vision"])}
                        )
                    return step(state, batch)

            return poisoned

        monkeypatch.setattr(loop, "compile_step", compile_poisoned)

    return make


def spoil(tree):
    return jax.tree.map(lambda x: x.at[(0,) * x.ndim].set(np.nan), tree)


def events(workdir):
    return [json.loads(line) for line in (workdir / "events.jsonl").read_text().splitlines()]


def test_the_run_stops_and_names_the_step_its_records_and_what_was_not_finite(poison, tmp_path):
    poison()
    with pytest.raises(UserError, match=r"is nan at step 8: the run has diverged, .* checkpoint is of step 5"):
        train_small(tmp_path / "run", logging__every_steps=4)
    (event,) = events(tmp_path / "run")
    assert (event["step"], event["policy"]) == (BAD, "stop")
    assert "loss" in event["terms"]
    assert len(event["records"]) == 16
    assert not (tmp_path / "run" / "checkpoints" / "10").exists()


def test_a_run_that_goes_back_is_one_without_that_batch(poison, tmp_path, capsys, monkeypatch):
    poison(always=False)
    assert train_small(tmp_path / "run", train__on_nonfinite="rollback").finished
    said = capsys.readouterr().out
    assert "skipping its batch" in said
    assert "resuming from step 5" in said
    monkeypatch.undo()

    # The same by hand: all steps but the eighth.
    real = loop.take_steps
    monkeypatch.setattr(loop, "take_steps", lambda *arguments: real(*arguments[:-1], {BAD}))
    train_small(tmp_path / "plain")
    assert_bit_identical(final_state(tmp_path / "run"), final_state(tmp_path / "plain"))
    steps = [line["step"] for line in read_metrics(tmp_path / "run") if "loss" in line]
    assert steps == [*range(1, BAD), *range(BAD + 1, 21)]


def test_a_run_that_cannot_get_over_it_stops_at_the_limit(poison, tmp_path):
    poison()
    with pytest.raises(UserError, match=r"3 non-finite steps, more than config\.train\.max_nonfinite_steps=2"):
        train_small(tmp_path / "run", train__on_nonfinite="skip", train__max_nonfinite_steps=2)


def test_an_update_that_is_not_finite_is_skipped_and_the_state_is_kept():
    """A batch of which the loss is NaN: nothing but the number of the step changes."""
    from rankclip_jax.training.experiment import build_experiment
    from rankclip_jax.training.state import create
    from rankclip_jax.training.step import abstract_batch, make_step
    from tests.training.conftest import small

    experiment = build_experiment(small(train__on_nonfinite="skip"), one_device(), 20)
    state = create(experiment)
    batch = {name: jnp.ones(like.shape, like.dtype) for name, like in abstract_batch(experiment).items()}
    step = make_step(experiment)
    scale = jnp.float32(np.nan)
    bad = state.replace(parameters=state.parameters | {"logit_scale": scale})
    before = jax.tree.map(np.asarray, bad)
    after, metrics = step(bad, batch)
    assert not metrics["finite"]
    assert after.step == before.step + 1
    assert jax.tree.all(
        jax.tree.map(lambda a, b: np.array_equal(a, b, equal_nan=True), after.replace(step=0), before.replace(step=0))
    )
