"""Every setting has a range or a list of choices, and nothing that no run can have is accepted."""

import copy
import json
import math
import shutil
import types

import numpy as np
import pytest

from configs import cc3m, cc3m_released, csv, csv_small, demo
from rankclip_jax import objectives
from rankclip_jax.checkpoints import workdir
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.setting import Choice, Range
from rankclip_jax.planning import hardware
from rankclip_jax.settings.schema import schema
from rankclip_jax.training import optimizer, schedule
from rankclip_jax.training.experiment import check, resolve_dtype
from tests.cli.random_words import draw_settings
from tests.training.conftest import small, train_small

SETTINGS = schema().settings()
NUMBERS = [name for name, setting in SETTINGS.items() if isinstance(setting.allowed, Range)]
TUPLES = [name for name, setting in SETTINGS.items() if isinstance(setting.default, tuple)]
CHOICES = [name for name, setting in SETTINGS.items() if isinstance(setting.allowed, Choice)]
# Words that are no choice: paths and names, and what the parts check.
FREE = {
    *("init_from", "data.train", "data.validation", "data.image_key", "data.caption_key", "data.delimiter"),
    *("data.source", "objective.name", "model.name", "model.tokenizer"),
    *("objective.ranking_scale", "objective.target_scale", "objective.teacher"),
}


def changed(name, value):
    config = small().copy_and_resolve_references()
    section, _, key = name.rpartition(".")
    holder = config[section] if section else config
    with holder.ignore_type():
        holder[key] = value
    return config


def test_every_setting_says_what_it_means_and_may_be():
    for name, setting in SETTINGS.items():
        assert 4 <= len(setting.meaning) <= 110, name
        assert setting.allowed or isinstance(setting.default, bool | dict) or name in FREE, name


def test_no_two_parts_declare_a_setting_differently():
    declared = [(kind, name, setting) for kind in schema().classes() for name, setting in kind.declared().items()]
    for kind, name, setting in declared:
        assert setting == SETTINGS[f"{kind.section}.{name}" if kind.section else name], (kind, name)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_outside_its_range_is_refused_by_name(name):
    allowed = SETTINGS[name].allowed
    beyond = [math.nan, math.inf, -math.inf, allowed.low - 1, allowed.high + 1, -(10**30), 10**30, "x", None]
    if allowed.exclude_low:
        beyond.append(allowed.low)
    if allowed.exclude_high:
        beyond.append(allowed.high)
    for value in beyond:
        with pytest.raises(UserError, match=rf"^config\.{name}: expected a .*; found "):
            check(changed(name, value), 1)


@pytest.mark.parametrize("name", TUPLES)
@pytest.mark.parametrize("value", [1.0, "x", None, (math.nan,) * 4, ("x",), (1e30, 1), ((1, 2),), [[]]], ids=str)
def test_a_tuple_of_the_wrong_kind_is_refused_by_name(name, value):
    if value == ("x",) and name in ("optimizer.frozen", "train.hooks"):
        return  # a pattern, though of no parameter, or a name, though of no hook
    with pytest.raises(UserError, match=rf"^config\.{name}"):
        check(changed(name, value), 1)


@pytest.mark.parametrize("name", [*CHOICES, "data.source", "objective.name", "model.name"])
def test_a_word_that_is_no_choice_is_refused_with_the_choices(name):
    for value in ("nonsense", 3, None):
        with pytest.raises(
            UserError, match=rf"^config\.{name}: (unknown (value|preset) 'nonsense'; choose from|expected a str)"
        ):
            check(changed(name, value), 1)


def test_a_recipe_that_lacks_a_setting_or_has_another_is_told():
    config = demo.get_config()
    del config.data.flip
    with pytest.raises(UserError, match=r"the recipe lacks config\.data\.flip"):
        check(config, 1)
    config = demo.get_config()
    config.data.flop = 1
    with pytest.raises(UserError, match=r"unknown setting config\.data\.flop in the recipe"):
        check(config, 1)


TOGETHER = {
    "two lengths": ({"train__epochs": 3}, "either steps or epochs"),
    "uneven batch": ({"train__global_batch_size": 30}, "30 pairs cannot .* 8 devices.*global_batch_size=24"),
    "small batch": ({"train__global_batch_size": 3}, "3 pairs cannot .* 8 devices.*global_batch_size=8"),
    "odd size": ({"model__image_size": 50}, "--config.model.image_size=48"),
    "no flash": ({"model__attention": "cudnn"}, "cudnn needs an NVIDIA GPU"),
    "no patches": ({"model__name": "RN50", "model__vision": {"patch_dropout": 0.5}}, "patch_dropout: unknown setting"),
    "long list": ({"objective__list_size": 17}, "expected 0 .* to 16, the batch"),
    "crops": ({"data__crop_scale": (1.0, 0.5)}, "the smaller fraction first"),
    "delimiter": ({"data__source": "csv", "data__delimiter": "ab"}, "expected one character"),
    "no average": ({"evaluation__weights": "ema"}, "--config.optimizer.ema_decay=0.999"),
    "pattern": ({"optimizer__rate_overrides": (("(", 0.1),)}, "is not a valid regular expression"),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_settings_that_cannot_be_together_are_refused(name):
    changes, said = TOGETHER[name]
    with pytest.raises(UserError, match=said):
        check(small(**changes), 8)


def test_warmup_is_given_once_and_leaves_some_of_the_run():
    with pytest.raises(UserError, match="either warmup_steps or warmup_fraction"):
        schedule.warmup_steps(small(optimizer__warmup_steps=5).optimizer, 100)
    late = small(optimizer__warmup_steps=20, optimizer__warmup_fraction=0.0).optimizer
    with pytest.raises(
        UserError, match=r"warmup_steps: expected fewer than the run's 20 steps; found 20\. .*warmup_fraction"
    ):
        schedule.warmup_steps(late, 20)
    assert schedule.warmup_steps(late, 21) == 20
    for total in (1, 2, 7, 1000):
        assert schedule.warmup_steps(csv.get_config().optimizer, total) < total
        rates = [float(schedule.learning_rate(csv.get_config().optimizer, total)(step)) for step in range(total)]
        assert min(rates) > 0
        assert max(rates) == pytest.approx(5e-4)


@pytest.mark.parametrize("name", schedule.SCHEDULES)
def test_the_rate_is_its_formula(name):
    config = small(optimizer__schedule=name, optimizer__final_fraction=0.1, optimizer__decay_fraction=0.3).optimizer
    config.warmup_fraction = 0.1
    rates = np.array([float(schedule.learning_rate(config, 100)(step)) for step in range(100)]) / config.learning_rate
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10, rtol=1e-6)
    steps = np.arange(10, 100)
    shape = {
        "cosine": (1 + np.cos(np.pi * (steps - 10) / 90)) / 2,
        "constant": np.ones(90),
        "warmup_stable_decay": np.minimum(1, (100 - steps) / 30),
    }[name]
    np.testing.assert_allclose(rates[10:], 0.1 + 0.9 * shape, rtol=1e-5)


RECIPES = {"demo": demo, "csv": csv, "csv_small": csv_small, "cc3m": cc3m, "cc3m_released": cc3m_released}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_passes_its_own_checks(name):
    config = RECIPES[name].get_config()
    check(config, 1)
    assert 0 < schedule.warmup_steps(config.optimizer, 20_000) < 20_000
    objectives.build(config.objective)


def test_the_released_recipe_is_the_releases_setting():
    """Its parser's defaults, read on github.com/Jam1ezhang/RankCLIP, rankclip/parser.py."""
    config = cc3m_released.get_config()
    assert (config.model.name, config.model.dtype, config.train.global_batch_size, config.train.epochs) == (
        "RN50", "float32", 128, 64)  # fmt: skip
    rates = config.optimizer
    assert (rates.learning_rate, rates.b1, rates.b2, rates.eps, rates.weight_decay, rates.warmup_steps) == (
        5e-4, 0.9, 0.999, 1e-8, 0.1, 10_000)  # fmt: skip
    assert (config.data.image_key, config.data.caption_key, config.data.delimiter, config.data.crop) == (
        "image", "caption", ",", "center")  # fmt: skip
    assert config.objective.variant == "released"


def test_a_run_resumes_with_the_defaults_of_settings_that_were_added_since(tmp_path):
    train_small(tmp_path / "run", train__steps=10, objective__name="clip")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "10")
    path = tmp_path / "run" / "config.json"
    stored = json.loads(path.read_text())
    del stored["objective"]["soft_fraction"]
    path.write_text(json.dumps(stored))
    assert train_small(tmp_path / "run", train__steps=10, objective__name="clip").finished
    assert json.loads(path.read_text())["objective"]["soft_fraction"] == 0.5


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"data": 3}', '{"extra": 99}', "not json", '{"data": {}}'])
def test_a_config_that_is_no_runs_is_told_by_its_name(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"^--workdir: .*config\.json"):
        workdir.read_config(tmp_path)


def test_overrides_by_pattern_reach_towers_layers_and_nothing_else():
    import jax

    from rankclip_jax.distributed.mesh import make_local_mesh
    from rankclip_jax.training.experiment import build_experiment

    config = demo.get_config()
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 0.0
    config.optimizer.gradient_clip = 0.0
    config.optimizer.rate_overrides = (("vision/transformer/blocks/[01]/", 0.0), ("^text/", 0.5))
    config.optimizer.decay_overrides = (("projection", 0.7),)
    experiment = build_experiment(config, make_local_mesh(), 10)
    shapes = experiment.abstract_variables()["params"]
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    updates, _ = experiment.optimizer.update(ones, experiment.optimizer.init(ones), ones)
    rate = float(experiment.learning_rate(0))
    blocks = updates["vision"]["transformer"]["blocks"]["mlp_in"]["kernel"]
    np.testing.assert_allclose(np.asarray(blocks).reshape(4, -1).mean(1), [0, 0, -rate, -rate], rtol=1e-4)
    np.testing.assert_allclose(updates["text"]["final_norm"]["norm"]["bias"], -0.5 * rate, rtol=1e-4)
    np.testing.assert_allclose(updates["vision"]["projection"]["kernel"], -1.7 * rate, rtol=1e-4)
    config.optimizer.frozen = ("^vision/",)
    config.optimizer.rate_overrides, config.optimizer.decay_overrides = (("^text/", 0.5),), (("text/projection", 0.7),)
    frozen = build_experiment(config, make_local_mesh(), 10).optimizer
    updates, _ = frozen.update(ones, frozen.init(ones), ones)
    np.testing.assert_array_equal(updates["vision"]["projection"]["kernel"], 0)
    np.testing.assert_allclose(updates["text"]["projection"]["kernel"], -0.5 * 1.7 * rate, rtol=1e-4)
    config.optimizer.rate_overrides = (("visoin", 0.1),)
    with pytest.raises(UserError, match=r"config\.optimizer\.rate_overrides: no parameter's name matches 'visoin'"):
        optimizer.build(config.optimizer, experiment.learning_rate, shapes)


@pytest.mark.parametrize("name", optimizer.OPTIMIZERS)
def test_every_optimizer_walks_downhill(name):
    import jax
    import optax

    from rankclip_jax.distributed.mesh import make_local_mesh
    from rankclip_jax.training.experiment import build_experiment

    config = small(optimizer__name=name, optimizer__schedule="constant", optimizer__warmup_fraction=0.0,
                   optimizer__learning_rate=1e-2)  # fmt: skip
    experiment = build_experiment(config, make_local_mesh(), 40)
    shapes = experiment.abstract_variables()["params"]
    rng = np.random.default_rng(0)
    x = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    loss = jax.jit(lambda x: sum(optax.tree.sum(leaf**2) for leaf in jax.tree.leaves(x)))
    state, before = experiment.optimizer.init(x), float(loss(x))
    update = jax.jit(experiment.optimizer.update)
    for _ in range(20):
        updates, state = update(x, state, x)
        x = optax.apply_updates(x, updates)
    assert float(loss(x)) < 0.95 * before


def test_muon_makes_each_layers_matrix_orthogonal_and_leaves_embeddings_to_adam():
    config = small(optimizer__name="muon").optimizer
    direction = optimizer.OPTIMIZERS["muon"](config)
    rng = np.random.default_rng(0)
    tree = {"vision": {"blocks": {"mlp_in": {"kernel": rng.normal(size=(3, 16, 16)).astype(np.float32)}},
                       "projection": {"kernel": rng.normal(size=(16, 8)).astype(np.float32)}}}  # fmt: skip
    updates, _ = direction.update(tree, direction.init(tree), tree)
    for layer in np.asarray(updates["vision"]["blocks"]["mlp_in"]["kernel"]):
        values = np.linalg.svd(layer, compute_uv=False)
        assert values.max() / values.min() < 2.2  # five Newton-Schulz steps leave some spread
    first_step = np.abs(updates["vision"]["projection"]["kernel"])  # Adam's: the signs alone, as Nesterov looks ahead
    np.testing.assert_allclose(first_step, first_step[0, 0], rtol=1e-2)


def test_random_settings_are_refused_in_words_or_make_sense():
    """Hundreds of draws are checked; nothing but a UserError comes of them."""
    rng = np.random.default_rng(0)
    refused, said = 0, []
    for _ in range(400):
        config = small()
        for name, text in draw_settings(rng, 2).items():
            section, _, key = name.rpartition(".")
            holder = config[section] if section else config
            with holder.ignore_type():
                holder[key] = _as_value(text, holder[key])
        try:
            check(copy.deepcopy(config), 1)
        except UserError as refusal:
            refused += 1
            said.append(str(refusal))
    assert all(words.startswith(("config.", "--config")) for words in said)
    assert 250 < refused < 400


@pytest.mark.slow
def test_random_settings_that_are_accepted_train(tmp_path):
    rng = np.random.default_rng(1)
    finished = 0
    for number in range(400):
        config = small(train__steps=2, objective__name="clip", data__train_examples=64, data__validation_examples=8,
                       data__workers=0)  # fmt: skip
        for name, text in draw_settings(rng, 1).items():
            section, _, key = name.rpartition(".")
            holder = config[section] if section else config
            with holder.ignore_type():
                holder[key] = _as_value(text, holder[key])
        if config.model.name != "tiny" or config.train.steps != 2 or config.data.workers:
            continue
        folder = tmp_path / str(number)
        try:
            from rankclip_jax.training.loop import train
            from tests.training.conftest import one_device

            outcome = train(config, folder, mesh=one_device())
        except UserError:
            assert not folder.exists()
            continue
        finished += 1
        assert outcome.finished
        for name, value in (outcome.results or {}).items():
            assert value is None or math.isfinite(value), (name, value)
        if finished == 6:
            break
    assert finished >= 3


def _as_value(text, default):
    """A text of the command line as its setting takes it, or the text itself."""
    kind = type(default)
    try:
        if kind is bool:
            return {"True": True, "False": False}.get(text, text)
        return kind(text) if kind in (int, float) else (kind(json.loads(text)) if kind is tuple else text)
    except (ValueError, TypeError):
        return text


DEVICES = [
    (("cpu", None), "float32"),
    (("gpu", "7.5"), "float32"),
    (("gpu", "8.0"), "bfloat16"),
    (("gpu", "10.0"), "bfloat16"),
    (("gpu", "gfx942"), "bfloat16"),
    (("tpu", None), "bfloat16"),
]


@pytest.mark.parametrize(("device", "dtype"), DEVICES, ids=str)
def test_auto_computes_in_bfloat16_where_the_device_is_fast_in_it(device, dtype):
    platform, capability = device
    device = types.SimpleNamespace(platform=platform, **({"compute_capability": capability} if capability else {}))
    assert resolve_dtype(small(model__dtype="auto"), device).model.dtype == dtype
    for given in ("float32", "bfloat16"):
        assert resolve_dtype(small(model__dtype=given), device).model.dtype == given


@pytest.mark.parametrize(("fast", "begun_with"), [(False, "float32"), (True, "bfloat16")])
def test_a_run_keeps_the_type_that_it_was_begun_with_on_other_devices(fast, begun_with, tmp_path, monkeypatch, capsys):
    asked, other = (
        {"model__dtype": "auto", "train__steps": 10},
        {"float32": "bfloat16", "bfloat16": "float32"}[begun_with],
    )
    monkeypatch.setattr(hardware, "has_fast_bfloat16", lambda device: fast)
    train_small(tmp_path / "run", **asked)
    assert workdir.read_config(tmp_path / "run")["model"]["dtype"] == begun_with
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "10")
    monkeypatch.setattr(hardware, "has_fast_bfloat16", lambda device: not fast)
    capsys.readouterr()
    assert train_small(tmp_path / "run", **asked).finished
    assert f"{begun_with} compute" in capsys.readouterr().out
    assert workdir.read_config(tmp_path / "run")["model"]["dtype"] == begun_with
    with pytest.raises(UserError, match=rf"config\.model\.dtype: '{begun_with}' stored, '{other}' now"):
        train_small(tmp_path / "run", **asked | {"model__dtype": other})
