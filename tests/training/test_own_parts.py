"""A recipe may add a preset and an objective: every command opens the run, and none runs code that only data name."""

import json
import shutil
import types

import jax
import numpy as np
import pytest

from rankclip_jax.checkpoints import workdir
from rankclip_jax.evaluation import run_evaluation
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.interop import loading
from rankclip_jax.models.presets import PRESETS, Preset, from_sizes, to_sizes
from rankclip_jax.models.text_transformer import TextTransformerConfig
from rankclip_jax.models.vision_transformer import VisionTransformerConfig
from rankclip_jax.monitoring import html_report, status
from rankclip_jax.objectives import OBJECTIVES
from rankclip_jax.settings import resolution as settings
from rankclip_jax.training.loop import train
from tests.commands import run
from tests.training.conftest import TINY, one_device, read_results, small

RECIPE = """
import types
from pathlib import Path
from rankclip_jax.models.presets import PRESETS, Preset, TextPreset, VisionPreset
from rankclip_jax.objectives import OBJECTIVES
from rankclip_jax.recipes import base

with Path(__file__).with_name("ran").open("a") as file:
    file.write("x")
PRESETS["ViT-Ti-mine"] = Preset(32, VisionTransformerConfig(32, 8, 32, 1, 1), TextTransformerConfig(width=32, layers=1, heads=1, context_length=24))


def loss(outputs, options, step):
    total, metrics = OBJECTIVES["clip"].loss(outputs, options, step)
    return total + outputs.scalars["margin"] ** 2, metrics


OBJECTIVES["mine"] = types.SimpleNamespace(loss=loss, PARAMETERS={"margin": 1.0})


def get_config():
    config = base()
    config.data.crop = "center"
    config.data.validation_examples = 32
    config.data.workers = 0
    config.model.name = "ViT-Ti-mine"
    config.objective.name = "mine"
    config.train.global_batch_size = 16
    config.train.steps = 2
    config.logging.every_steps = 1
    return config
"""


@pytest.fixture(scope="module")
def by_recipe(tmp_path_factory):
    """A run that the command made from a recipe with parts of its own, and its results."""
    folder = tmp_path_factory.mktemp("by_recipe")
    (folder / "mine.py").write_text(RECIPE)
    run("train", "--config", folder / "mine.py", "--workdir", folder / "run")
    assert (folder / "run" / "recipe.py").read_text() == RECIPE
    results = read_results(folder / "run", 2)
    (folder / "run" / "evaluation" / "2.json").unlink()
    yield folder / "run", results
    assert not (folder / "run" / "ran").exists()  # nobody named the run's copy, so nothing ran it


@pytest.mark.slow
def test_evaluation_does_without_the_recipe_but_for_the_validation_loss(by_recipe, tmp_path):
    folder, trained = by_recipe
    said = run("evaluate", "--workdir", folder).stdout
    assert "no validation loss: the objective 'mine'" in said
    others = {name: value for name, value in trained.items() if not name.startswith("validation/")}
    assert read_results(folder, 2) == pytest.approx(others, rel=1e-4, abs=1e-4)
    refused = run("evaluate", "--workdir", folder, "--tasks=validation", status=2).stderr
    assert "Name the recipe that adds it: --config RECIPE" in refused
    shutil.copy(folder / "recipe.py", tmp_path / "copy.py")
    run("evaluate", "--workdir", folder, "--tasks=validation", "--config", tmp_path / "copy.py")
    assert read_results(folder, 2)["validation/loss"] == pytest.approx(trained["validation/loss"], rel=1e-4)
    assert (tmp_path / "ran").exists()


@pytest.mark.slow
def test_the_other_commands_open_the_run_of_a_recipe_with_parts_of_its_own(by_recipe, tmp_path):
    folder = by_recipe[0]
    assert "ViT-Ti-mine, mine; finished, 2 steps" in run("status", "--workdir", folder).stdout
    assert "step 2: whole" in run("verify", "--workdir", folder).stdout
    run("export", "--workdir", folder, "--format=open_clip", "--output", tmp_path / "mine.safetensors")
    run("report", "--workdir", folder, "--output", tmp_path / "report.html")
    assert "Images, and the captions nearest" in (tmp_path / "report.html").read_text()


@pytest.fixture(scope="module")
def own_run(tmp_path_factory):
    """A run with a preset and an objective that are not in the tables any more."""
    folder = tmp_path_factory.mktemp("own") / "run"

    def loss(outputs, options, step):
        total, metrics = OBJECTIVES["clip"].loss(outputs, options, step)
        return total + outputs.scalars["margin"] ** 2, metrics

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            PRESETS,
            "mine",
            Preset(
                24,
                VisionTransformerConfig(32, 16, 32, 2, 1),
                TextTransformerConfig(width=32, layers=1, heads=1, context_length=30),
            ),
        )
        patch.setitem(OBJECTIVES, "mine", types.SimpleNamespace(loss=loss, PARAMETERS={"margin": 1.0}))
        config = small(model__name="mine", objective__name="mine", train__steps=1, data__workers=0)
        assert train(config, str(folder), one_device()).finished
        assert not config.model.sizes  # the caller's settings stay as they were
    return folder


def test_a_run_is_read_without_the_tables_that_it_was_made_with(own_run, tmp_path, capsys):
    weights = loading.read(own_run)
    assert weights.model.preset == Preset(
        24,
        VisionTransformerConfig(32, 16, 32, 2, 1),
        TextTransformerConfig(width=32, layers=1, heads=1, context_length=30),
    )
    assert set(weights.variables["params"]) == {"vision", "text", "logit_scale"}
    run_evaluation.evaluate(own_run, None, ["retrieval"], None)
    with pytest.raises(UserError, match=r"^--tasks: the objective 'mine' of the run is not here.*--config RECIPE"):
        run_evaluation.evaluate(own_run, None, ["validation"], None)
    html_report.write([own_run], tmp_path / "report.html")
    assert "mine, mine; finished, 1 steps" in next(status.describe(own_run))


def test_a_run_starts_from_the_weights_of_one_whose_preset_is_not_in_the_table(own_run, tmp_path):
    sizes = json.loads((own_run / "config.json").read_text())["model"]["sizes"]
    config = small(model__name="another name", train__steps=1, data__workers=0, init_from=str(own_run))
    config.model.sizes = sizes
    assert train(config, tmp_path / "tuned", one_device()).finished


def test_other_sizes_under_the_same_name_are_another_run(own_run):
    changed = dict(json.loads((own_run / "config.json").read_text())["model"]["sizes"], embedding_size=32)
    config = small(model__name="mine", objective__name="clip", train__steps=1, data__workers=0)
    config.model.sizes = changed
    with pytest.raises(UserError, match=r"config\.model\.sizes\.embedding_size: 24 there, 32 now"):
        train(config, own_run, one_device())


def test_a_word_that_reading_needs_is_told_with_what_to_do(own_run, tmp_path):
    config = json.loads((own_run / "config.json").read_text())
    config["model"]["activation"] = "mine"
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "checkpoints").symlink_to(own_run / "checkpoints")
    with pytest.raises(UserError, match=r"config\.model\.activation: no 'mine'.*name the recipe with --config RECIPE"):
        loading.read(tmp_path)


@pytest.mark.parametrize("name", PRESETS)
def test_sizes_survive_json(name):
    assert from_sizes(json.loads(json.dumps(to_sizes(PRESETS[name])))) == PRESETS[name]


BROKEN = {
    "missing": (lambda sizes: sizes.pop("embedding_size"), r"sizes\.embedding_size: missing"),
    "no tower": (lambda sizes: sizes.update(text=3), r"sizes\.text: expected the sizes of a tower; found 3"),
    "unknown": (lambda sizes: sizes["text"].update(depth=3), r"sizes\.text\.depth: no such size"),
    "a word": (lambda sizes: sizes["vision"].update(width="x"), r"sizes\.vision\.width: expected a whole number"),
    "a flag": (lambda sizes: sizes["vision"].update(width=True), r"sizes\.vision\.width: .* found True"),
    "too large": (lambda sizes: sizes["vision"].update(layers=10**9), r"sizes\.vision\.layers: .* 1 to 512"),
    "none": (lambda sizes: sizes["text"].update(width=0), r"sizes\.text\.width: "),
    "few words": (lambda sizes: sizes["text"].update(vocabulary_size=9), r"sizes\.text\.vocabulary_size: .* 49,408"),
    "heads": (lambda sizes: sizes["text"].update(heads=3), r"sizes\.text\.heads: expected a divisor of the width, 32"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_sizes_that_are_no_models_are_refused_by_name(name, tmp_path):
    change, said = BROKEN[name]
    config = settings.to_dict(settings.with_sizes(small()))
    change(config["model"]["sizes"])
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=rf"^--workdir: .*config\.json: config\.model\.{said}"):
        workdir.read_config(tmp_path)


def test_a_known_name_keeps_its_sizes():
    config = small(model__name="ViT-B-32")
    config.model.sizes = to_sizes(TINY)
    with pytest.raises(UserError, match=r"config\.model\.sizes: ViT-B-32 is the name of a preset of other sizes"):
        settings.check(config, 1)
    config.model.name = "tiny"
    settings.check(config, 1)
    config.model.name = "of mine"
    settings.check(config, 1)
    from rankclip_jax.models import clip

    shapes = jax.tree.map(np.shape, clip.abstract_variables(clip.build(config.model)))
    config.model.sizes, config.model.name = {}, "tiny"
    assert shapes == jax.tree.map(np.shape, clip.abstract_variables(clip.build(config.model)))
