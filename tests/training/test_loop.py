"""Runs in this process: what a run refuses, how it goes on, and what it leaves behind."""

import contextlib
import json
import logging
import math
import re
import shutil
import signal

import jax
import numpy as np
import pytest

from rankclip_jax.checkpoints import workdir
from rankclip_jax.evaluation import results
from rankclip_jax.evaluation.evaluator import Evaluator
from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.interop import loading
from rankclip_jax.monitoring import summary_figure
from rankclip_jax.monitoring.writers import JsonLines
from rankclip_jax.objectives import OBJECTIVES
from rankclip_jax.training import attempt, compilation, loop
from rankclip_jax.training.experiment import build_experiment
from rankclip_jax.training.hooks.interruption import InterruptHook
from rankclip_jax.training.loop import train
from tests.training.conftest import (
    assert_bit_identical,
    final_state,
    one_device,
    read_metrics,
    read_results,
    small,
    train_small,
)


@pytest.fixture(autouse=True)
def quick_picture(request, monkeypatch):
    """Drawing takes seconds, and is tested by the tests that ask for it."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(
            summary_figure,
            "draw",
            lambda workdir, *_: (workdir / summary_figure.NAME).touch() or workdir / summary_figure.NAME,
        )


@pytest.fixture
def drawn():
    """Draws reports."""


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 8])
def test_the_number_of_devices_does_not_change_the_losses(devices, undisturbed, tmp_path, mesh_of):
    train_small(tmp_path / "run", mesh_of(devices), objective__name="rankclip")
    ours, expected = (
        [line["loss"] for line in read_metrics(path) if "loss" in line] for path in (tmp_path / "run", undisturbed)
    )
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_a_finished_run_says_so_and_makes_what_is_missing(undisturbed, tmp_path, capsys):
    before, files = final_state(undisturbed), snapshot(undisturbed)
    outcome = train_small(undisturbed, objective__name="rankclip")
    assert outcome.finished
    assert outcome.results is None
    assert "This run is finished: 20 steps" in capsys.readouterr().out
    assert snapshot(undisturbed) == files
    expected = read_results(undisturbed, 20)
    results.path_of(undisturbed, 20).unlink()
    (undisturbed / summary_figure.NAME).unlink()
    outcome = train_small(undisturbed, objective__name="rankclip")
    assert outcome.results == pytest.approx(expected, rel=1e-5)
    assert read_results(undisturbed, 20) == pytest.approx(expected, rel=1e-5)
    assert (undisturbed / summary_figure.NAME).exists()
    assert_bit_identical(before, final_state(undisturbed))


def test_a_signal_gives_an_outcome_and_leaves_handlers_as_they_were(tmp_path, monkeypatch):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    calls = InterruptHook.after_step

    def interrupt_at_7(self, info):
        if info.step == 7:
            signal.raise_signal(signal.SIGTERM)
        calls(self, info)

    monkeypatch.setattr(InterruptHook, "after_step", interrupt_at_7)
    outcome = train_small(tmp_path / "run")
    assert (outcome.step, outcome.finished, outcome.signal_number) == (7, False, signal.SIGTERM)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert workdir.saved_steps(tmp_path / "run")[-1] == 7


def test_hooks_hear_of_the_error_that_ends_a_run(tmp_path, monkeypatch):
    heard = []
    leave = InterruptHook.__exit__

    def listen(self, kind, error, traceback):
        heard.append(error)
        return leave(self, kind, error, traceback)

    def fail(self, info):
        raise UserError("stop here")

    monkeypatch.setattr(InterruptHook, "__exit__", listen)
    monkeypatch.setattr(InterruptHook, "after_step", fail)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(UserError, match="stop here"):
        train_small(tmp_path / "run")
    assert [str(error) for error in heard] == ["stop here"]
    assert signal.getsignal(signal.SIGINT) == before


def test_a_workdir_of_another_run_is_refused_and_kept(undisturbed):
    files = snapshot(undisturbed)
    with pytest.raises(UserError, match=r"holds a run with other settings: config\.seed: 0 stored, 1 now"):
        train_small(undisturbed, seed=1, objective__name="rankclip")
    assert snapshot(undisturbed) == files


def test_settings_without_a_checkpoint_are_replaced(tmp_path):
    workdir.write_config(tmp_path / "run", small(seed=5))
    train_small(tmp_path / "run", train__steps=1)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == 0


def test_a_temporary_folder_of_a_save_that_was_cut_off_is_no_checkpoint(undisturbed, tmp_path):
    """So that init_from still counts after a kill during the first save."""
    run = tmp_path / "run"
    workdir.write_config(run, small())
    (run / "checkpoints" / "5.orbax-checkpoint-tmp-17").mkdir(parents=True)
    (run / "checkpoints" / "5.orbax-checkpoint-tmp-17" / "junk").write_text("x")
    assert workdir.saved_steps(run) == []
    train_small(run, train__steps=1, init_from=str(undisturbed), optimizer__learning_rate=1e-9)
    start, after = (
        loading.read(path).variables["params"]["text"]["projection"]["kernel"] for path in (undisturbed, run)
    )
    np.testing.assert_allclose(after, start, atol=1e-6)


def test_a_run_starts_from_another_runs_weights_with_a_tower_frozen(undisturbed, tmp_path):
    changes = {
        "init_from": str(undisturbed),
        "optimizer__frozen": ("vision/",),
        "model__image_size": 48,
        "train__steps": 4,
    }
    for other, said in (
        ({"model__activation": "gelu"}, "expected weights trained with gelu; found quick_gelu"),
        (
            {"model__vision": {"pooling": "mean"}},
            r"config\.model\.vision\.pooling: 'class_token' in the weights, 'mean' in",
        ),
        ({"model__name": "ViT-S-16"}, "expected weights of a ViT-S-16; found a tiny"),
    ):
        with pytest.raises(UserError, match=said):
            train_small(tmp_path / "run", **(changes | other))
    assert not (tmp_path / "run").exists()
    train_small(tmp_path / "run", **changes)
    before, after = (final_state(folder)[1]["parameters"] for folder in (undisturbed, tmp_path / "run"))
    position = "positional_embedding"
    assert (before["vision"].pop(position).shape, after["vision"].pop(position).shape) == ((17, 32), (37, 32))
    assert jax.tree.all(jax.tree.map(np.array_equal, before["vision"], after["vision"]))
    assert not np.array_equal(before["text"]["projection"]["kernel"], after["text"]["projection"]["kernel"])


@pytest.mark.slow
def test_siglip_brings_its_own_bias_learns_it_and_resumes_with_it(tmp_path):
    changes = {"objective__name": "siglip", "objective__second_view": True, "objective__chunk_size": 3}
    train_small(tmp_path / "whole", **changes, train__steps=6)
    metrics = read_metrics(tmp_path / "whole")
    assert metrics[0]["logit_bias"] == -10
    assert metrics[-2]["logit_bias"] != -10
    assert metrics[0]["loss"] == pytest.approx((metrics[0]["sigmoid"] + metrics[0]["second_view"]) / 2, rel=1e-5)
    assert "logit_bias" in loading.read(tmp_path / "whole").variables["params"]
    train_small(tmp_path / "other", train__steps=2, init_from=str(tmp_path / "whole"))  # which has no use for it
    assert "logit_bias" not in loading.read(tmp_path / "other").variables["params"]


def test_a_method_may_learn_arrays(tmp_path, monkeypatch):
    """A linear head, say: from its start through training, saving and resuming."""

    class Bent(OBJECTIVES["clip"]):
        def parameters(self):
            return {"bend": np.eye(32)}

        def loss(self, outputs, step):
            image = outputs.embeddings["image"] @ outputs.scalars["bend"]
            return OBJECTIVES["clip"].loss(
                self, outputs._replace(embeddings=outputs.embeddings | {"image": image}), step
            )

    monkeypatch.setitem(OBJECTIVES, "bent", Bent)
    train_small(tmp_path / "run", objective__name="bent", train__steps=3)
    head = loading.read(tmp_path / "run").variables["params"]["bend"]
    assert head.shape == (32, 32)
    assert 0 < np.abs(head - np.eye(32)).max() < 0.01


@pytest.mark.slow
def test_a_method_may_remember_something_of_each_sample(tmp_path, monkeypatch):
    """How often each was seen, here: kept, saved and gone on with, over two meshes, and no metric."""

    class Remembering(OBJECTIVES["clip"]):
        def initial_state(self, examples):
            return {"seen": np.zeros(examples)}

        def loss(self, outputs, step):
            return (
                OBJECTIVES["clip"]
                .loss(self, outputs, step)
                ._replace(state={"seen": step.state["seen"].at[step.sample].add(1)})
            )

    monkeypatch.setitem(OBJECTIVES, "remembering", Remembering)
    changes = {"objective__name": "remembering", "data__train_examples": 40, "optimizer__schedule": "constant"}
    train_small(tmp_path / "run", **changes, train__steps=5)  # 16 of the 40 a step: twice each
    np.testing.assert_array_equal(final_state(tmp_path / "run")[1]["objective_state"]["seen"], 2)
    assert train_small(tmp_path / "run", **changes, train__steps=10).finished
    np.testing.assert_array_equal(final_state(tmp_path / "run")[1]["objective_state"]["seen"], 4)
    assert "seen" not in read_metrics(tmp_path / "run")[0]


def test_nothing_is_compiled_after_the_first_step(tmp_path, monkeypatch):
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **more: compiled.append(event) if "backend_compile" in event else None
    )
    counts = []
    monkeypatch.setattr(attempt.LoggingHook, "after_step", lambda self, info: counts.append(len(compiled)))
    train_small(tmp_path / "run", objective__name="rankclip", train__steps=8, checkpoint__every_steps=100)
    assert counts[0] > 0
    assert counts[1:] == [counts[1]] * 7


def test_a_tower_that_pools_its_patches_starts_from_one_of_another_image_size(tmp_path):
    train_small(tmp_path / "start", model__vision={"pooling": "mean"}, train__steps=1)
    changes = {"model__vision": {"pooling": "mean"}, "model__image_size": 48, "init_from": str(tmp_path / "start")}
    assert train_small(tmp_path / "run", **changes, train__steps=1).finished
    with pytest.raises(
        UserError, match=r"expected weights trained with pixel_mean .* Use --config\.model\.pixel_mean="
    ):
        train_small(tmp_path / "other", **changes, model__pixel_mean=(0.5, 0.5, 0.5))


def test_a_signal_in_the_last_evaluation_stops_at_once_and_the_next_start_makes_it(tmp_path, monkeypatch):
    evaluate = Evaluator.__call__

    def interrupted(self, variables):
        signal.raise_signal(signal.SIGINT)
        return evaluate(self, variables)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_small(tmp_path / "run", train__steps=2)
    signal.signal(signal.SIGINT, before)
    assert workdir.saved_steps(tmp_path / "run") == [2]
    outcome = train_small(tmp_path / "run", train__steps=2)
    assert outcome.results["zero_shot/top_1"] == read_results(tmp_path / "run", 2)["zero_shot/top_1"]
    assert read_metrics(tmp_path / "run")[-1]["zero_shot/top_1"] == outcome.results["zero_shot/top_1"]


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["constant", "warmup_stable_decay"])
def test_a_run_goes_on_to_more_steps_where_its_rate_allows_it(schedule, tmp_path):
    changes = {"optimizer__schedule": schedule, "optimizer__warmup_fraction": 0.0, "objective__name": "clip"}
    train_small(tmp_path / "run", **changes, train__steps=10)
    short = read_metrics(tmp_path / "run")
    outcome = train_small(tmp_path / "run", **changes, train__steps=20)
    assert outcome.step == 20
    train_small(tmp_path / "whole", **changes, train__steps=20)
    if schedule == "constant":
        assert_bit_identical(final_state(tmp_path / "run"), final_state(tmp_path / "whole"))
    else:
        assert [line["learning_rate"] for line in short if "loss" in line][-1] < 7e-4
        assert (tmp_path / "run" / "set_aside" / "10").is_dir()
        assert not (tmp_path / "run" / "checkpoints" / "10").exists() or workdir.saved_steps(tmp_path / "run")[-1] == 20
    np.testing.assert_allclose(*([line["loss"] for line in read_metrics(tmp_path / name) if "loss" in line]
                                 for name in ("run", "whole")), rtol=1e-6)  # fmt: skip


def test_a_cosine_cannot_be_made_longer_and_the_way_otherwise_is_said(undisturbed):
    with pytest.raises(UserError, match=r"has 20 steps and cannot be changed to 30: its cosine.*--config\.init_from"):
        train_small(undisturbed, train__steps=30, objective__name="rankclip")


@pytest.mark.slow
def test_an_average_of_the_weights_is_kept_evaluated_and_loaded(tmp_path):
    train_small(tmp_path / "run", optimizer__ema_decay=0.9, evaluation__weights="ema", train__steps=12)
    state = final_state(tmp_path / "run")[1]
    latest, average = (loading.read(tmp_path / "run", weights=name).variables for name in ("latest", "ema"))
    for found, name in ((latest, "parameters"), (average, "ema")):
        assert jax.tree.all(jax.tree.map(np.array_equal, found["params"], state[name]))
    assert not np.array_equal(latest["params"]["logit_scale"], average["params"]["logit_scale"])
    scales = [line["logit_scale"] for line in read_metrics(tmp_path / "run") if "loss" in line]
    expected = 1 / 0.07
    expected = math.log(expected)
    for step, scale in enumerate([*scales[1:], None]):  # metrics hold the scale before each update
        new = float(latest["params"]["logit_scale"]) if scale is None else math.log(scale)
        kept = min(0.9, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * new
    assert float(average["params"]["logit_scale"]) == pytest.approx(expected, abs=1e-5)
    train_small(tmp_path / "none", train__steps=1)
    with pytest.raises(UserError, match="keeps no EMA"):
        loading.read(tmp_path / "none", weights="ema")


@pytest.mark.parametrize("damage", ["empty", "garbage"])
def test_a_damaged_checkpoint_is_a_paragraph(damage, tmp_path):
    train_small(tmp_path / "run", train__steps=2)
    folder = tmp_path / "run" / "checkpoints" / "2"
    if damage == "empty":
        shutil.rmtree(folder)
        folder.mkdir()
    for path in list(folder.rglob("*METADATA*")):
        path.write_text("x")
    for use in (lambda: loading.read(tmp_path / "run"), lambda: train_small(tmp_path / "run", train__steps=2)):
        with pytest.raises(UserError, match=r"^--workdir: the checkpoint of step 2 .* cannot be read|no checkpoint"):
            use()


def test_divergence_is_noticed_at_the_next_logged_step(tmp_path, monkeypatch, capsys):
    real = compilation.make_step

    def poisoned(experiment):
        import jax.numpy as jnp

        step = real(experiment)

        def bad(state, batch):
            state, metrics = step(state, batch)
            bad_now = state.step >= 3
            parameters = jax.tree.map(lambda leaf: jnp.where(bad_now, jnp.nan, leaf), state.parameters)
            return state.replace(parameters=parameters), metrics

        return jax.jit(bad)

    monkeypatch.setattr(compilation, "make_step", poisoned)
    with pytest.raises(UserError, match=r"loss is nan at step 4: the run has diverged, .* There is no checkpoint yet"):
        train_small(tmp_path / "run", checkpoint__every_steps=1000, logging__every_steps=2)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["loss"] is None  # valid JSON, which has no NaN
    assert "NaN" not in lines[-1]
    assert workdir.saved_steps(tmp_path / "run") == []


def test_a_loss_that_is_not_finite_from_the_start_does_not_blame_the_learning_rate(tmp_path, monkeypatch):
    real = loading.weights_to_start_from

    def damaged(config, model):
        variables = real(config, model) or jax.jit(lambda: build_experiment(config, one_device(), 1).init_variables(
            jax.random.key(0)))()  # fmt: skip
        return jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), variables)

    monkeypatch.setattr(loading, "weights_to_start_from", damaged)
    with pytest.raises(
        UserError, match=r"is nan at step 1, before the first update, so the cause is not the learning rate"
    ):
        train_small(tmp_path / "run")


def test_what_does_not_fit_is_refused_with_the_flags_that_help_and_nothing_is_written(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"needs [\d.]+ GiB of memory besides .* --config\.model\.remat=blocks"):
        train_small(tmp_path / "run", train__global_batch_size=2**19)
    assert not (tmp_path / "run").exists()

    @contextlib.contextmanager
    def no_memory(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
        yield

    monkeypatch.setattr(loop, "compile_step", no_memory)
    with (
        pytest.raises(UserError, match=r"is out of memory \(RESOURCE_EXHAUSTED.*--config\.model\.dtype=bfloat16"),
        compilation.ExplainMemory(build_experiment(small(), one_device(), 1)),
        no_memory(),
    ):
        pass


def test_without_validation_data_that_is_said(tmp_path, capsys):
    outcome = train_small(tmp_path / "run", data__validation_examples=0, train__steps=2)
    assert outcome.results is None
    assert "no validation data: skipping the evaluation" in capsys.readouterr().out


def test_one_validation_pair_has_no_tau_and_that_is_said(tmp_path, capsys):
    train_small(tmp_path / "run", data__validation_examples=1, train__steps=2)
    assert read_results(tmp_path / "run", 2)["ranking/kendall_tau"] is None
    assert re.search(r"ranking/kendall_tau +undefined for these data", capsys.readouterr().out)
    assert read_results(tmp_path / "run", 2)["validation/batch_size"] == 1


def test_the_report_says_where_losses_are_not_comparable(drawn, tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    labels = []
    plot = Axes.plot

    def listen(self, *args, **settings):
        labels.append(settings.get("label"))
        return plot(self, *args, **settings)

    monkeypatch.setattr(Axes, "plot", listen)
    train_small(tmp_path / "few", data__validation_examples=12, train__steps=2)
    assert "validation/loss with 12 pairs (training: 16), not comparable" in labels
    labels.clear()
    train_small(tmp_path / "enough", train__steps=2)
    assert "validation/loss" in labels


def test_results_are_added_to_and_written_whole(tmp_path, caplog):
    results.write(tmp_path, 3, [Metric("a", 0.5), Metric("b", None)])
    results.write(tmp_path, 3, [Metric("c", 0.25), Metric("a", 0.75)])
    assert read_results(tmp_path, 3) == {"a": 0.75, "b": None, "c": 0.25}
    results.path_of(tmp_path, 3).write_text('{"a": 0.')
    with caplog.at_level(logging.WARNING):
        results.write(tmp_path, 3, [Metric("a", 1.0)])
    assert read_results(tmp_path, 3) == {"a": 1.0}
    assert "not a file of evaluation results; ignoring it" in caplog.text
    assert {path.name for path in (tmp_path / "evaluation").iterdir()} == {"3.json", "higher_is_better.json"}


def test_metrics_of_an_attempt_that_was_cut_off_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n[]\n{"loss": 1.0}\n{"step": 2, "loss": 1.0}\n{"step": 3, "lo')
    writer = JsonLines(path, start_step=1)
    writer.write(2, {"loss": math.inf, "x": 0.5})
    writer.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": None, "x": 0.5},
    ]


def test_train_needs_no_main_thread(tmp_path):
    """A study may train in a thread, which hears no signals."""
    import threading

    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(train(small(train__steps=1), tmp_path, mesh=one_device())))
    thread.start()
    thread.join()
    assert outcomes[0].finished
