"""A recipe may add a preset and an objective: every command opens the run, and none runs code that only data name."""

import json
import shutil

import pytest
from ml_collections import ConfigDict

from rankclip_jax.evaluation import run_evaluation
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.interop import loading
from rankclip_jax.models import presets
from rankclip_jax.models.presets import PRESETS, Preset
from rankclip_jax.models.text_transformer import TextTransformerConfig
from rankclip_jax.models.vision_transformer import VisionTransformerConfig
from rankclip_jax.monitoring import html_report, status
from rankclip_jax.objectives import OBJECTIVES
from rankclip_jax.recipes import base
from rankclip_jax.training.experiment import check
from rankclip_jax.training.loop import train
from tests.commands import run
from tests.training.conftest import TINY, one_device, read_results, small

RECIPE = """
from pathlib import Path
from rankclip_jax.models.presets import PRESETS, Preset
from rankclip_jax.models.text_transformer import TextTransformerConfig
from rankclip_jax.models.vision_transformer import VisionTransformerConfig
from rankclip_jax.objectives import OBJECTIVES
from rankclip_jax.recipes import base

with Path(__file__).with_name("ran").open("a") as file:
    file.write("x")
PRESETS["ViT-Ti-mine"] = Preset(
    32, VisionTransformerConfig(32, 8, 32, 1, 1), TextTransformerConfig(width=32, layers=1, heads=1, context_length=24)
)


class Mine(OBJECTIVES["clip"]):
    def parameters(self):
        return {"margin": 1.0}

    def loss(self, outputs, step):
        result = OBJECTIVES["clip"].loss(self, outputs, step)
        return result._replace(loss=result.loss + outputs.scalars["margin"] ** 2)


OBJECTIVES["mine"] = Mine


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
    assert "the validation loss cannot be computed: the objective 'mine'" in said
    others = {name: value for name, value in trained.items() if not name.startswith("validation/")}
    assert read_results(folder, 2) == pytest.approx(others, rel=1e-4, abs=1e-4)
    refused = run("evaluate", "--workdir", folder, "--tasks=validation", status=2).stderr
    assert "Use --config RECIPE with the recipe that adds it" in refused
    shutil.copy(folder / "recipe.py", tmp_path / "copy.py")
    run("evaluate", "--workdir", folder, "--tasks=validation", "--config", tmp_path / "copy.py")
    assert read_results(folder, 2)["validation/loss"] == pytest.approx(trained["validation/loss"], rel=1e-4)
    assert (tmp_path / "ran").exists()


@pytest.mark.slow
def test_the_other_commands_open_the_run_of_a_recipe_with_parts_of_its_own(by_recipe, tmp_path):
    folder = by_recipe[0]
    assert "ViT-Ti-mine, mine; finished, 2 steps" in run("status", "--workdir", folder).stdout
    assert "step 2: intact" in run("verify", "--workdir", folder).stdout
    run("export", "--workdir", folder, "--format=open_clip", "--output", tmp_path / "mine.safetensors")
    run("report", "--workdir", folder, "--output", tmp_path / "report.html")
    assert "Images, and the captions nearest" in (tmp_path / "report.html").read_text()


@pytest.fixture(scope="module")
def own_run(tmp_path_factory):
    """A run with a preset and an objective that are not in the tables any more."""
    folder = tmp_path_factory.mktemp("own") / "run"

    class Mine(OBJECTIVES["clip"]):
        def parameters(self):
            return {"margin": 1.0}

        def loss(self, outputs, step):
            result = OBJECTIVES["clip"].loss(self, outputs, step)
            return result._replace(loss=result.loss + outputs.scalars["margin"] ** 2)

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
        patch.setitem(OBJECTIVES, "mine", Mine)
        config = small(model__name="mine", objective__name="mine", train__steps=1, data__workers=0)
        assert train(config, str(folder), mesh=one_device()).finished
        assert not config.model.vision  # the caller's settings stay as they were
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
    with pytest.raises(
        UserError,
        match=r"^--tasks: the validation loss cannot be computed: the objective 'mine' is not loaded.*--config RECIPE",
    ):
        run_evaluation.evaluate(own_run, None, ["validation"], None)
    html_report.write([own_run], tmp_path / "report.html")
    assert "mine, mine; finished, 1 steps" in next(status.lines(own_run))


def stored_model(folder):
    return json.loads((folder / "config.json").read_text())["model"]


def with_sizes(config, model):
    for name in ("embedding_size", "vision", "text"):
        config.model[name] = model[name]
    return config


def test_a_run_starts_from_the_weights_of_one_whose_preset_is_not_in_the_table(own_run, tmp_path):
    config = small(model__name="another name", train__steps=1, data__workers=0, init_from=str(own_run))
    assert train(with_sizes(config, stored_model(own_run)), tmp_path / "tuned", mesh=one_device()).finished


def test_other_sizes_under_the_same_name_are_another_run(own_run):
    config = small(model__name="mine", objective__name="clip", train__steps=1, data__workers=0)
    with_sizes(config, stored_model(own_run) | {"embedding_size": 32})
    with pytest.raises(UserError, match=r"config\.model\.embedding_size: 24 stored, 32 now"):
        train(config, own_run, mesh=one_device())


def copy_with(own_run, folder, change):
    """The run with other settings."""
    config = json.loads((own_run / "config.json").read_text())
    change(config["model"])
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "checkpoints").symlink_to(own_run / "checkpoints")
    return folder


@pytest.mark.parametrize("name", PRESETS)
def test_sizes_survive_json(name):
    config = base()
    config.model.name = name
    stored = ConfigDict(json.loads(json.dumps(presets.resolved(config.model).to_dict())))
    stored.name = "of mine"
    assert presets.preset_of(stored) == PRESETS[name]


BROKEN = {
    "no activation": (lambda model: model.update(activation="mine"), r"activation: unknown value 'mine'"),
    "missing": (lambda model: model.pop("embedding_size"), r"name: unknown preset 'mine'.*--config RECIPE"),
    "no encoder": (lambda model: model.update(text=3), r"text"),
    "unknown": (lambda model: model["text"].update(depth=3), r"text\.depth: unknown setting"),
    "a word": (lambda model: model["vision"].update(width="x"), r"vision\.width: expected a number"),
    "a flag": (lambda model: model["vision"].update(width=True), r"vision\.width: .* found True"),
    "too large": (lambda model: model["vision"].update(layers=10**9), r"vision\.layers: .* at least 1 and at most 512"),
    "none": (lambda model: model["text"].update(width=0), r"text\.width: "),
    "heads": (lambda model: model["text"].update(heads=3), r"text\.heads: expected a divisor of the width, 32"),
    "no family": (lambda model: model["text"].update(family="rnn"), r"text\.family: unknown value 'rnn'"),
    "code": (lambda model: model["text"].update(family="os:system"), r"text\.family: os:system: expected a subclass"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_models_that_cannot_be_are_refused_by_name(name, own_run, tmp_path):
    change, said = BROKEN[name]
    with pytest.raises(UserError, match=rf"^--workdir: .*config\.json: .*config\.model\.{said}"):
        loading.read(copy_with(own_run, tmp_path, change))


def test_other_sizes_may_go_by_a_known_name():
    config = small(model__name="ViT-B-32")
    with_sizes(config, presets.resolved(small().model))
    check(config, 1)
    assert presets.preset_of(config.model) == TINY
