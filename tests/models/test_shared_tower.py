"""Images and texts encoded by one tower, which a user brings in one file."""

import jax
import numpy as np
import pytest

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.models import clip
from rankclip_jax.models.presets import preset_of
from rankclip_jax.recipes import base
from rankclip_jax.training.experiment import build_experiment
from tests.commands import run
from tests.own_parts.one_tower import OneTowerModule

FAMILIES = {"vision": {"family": "tests.own_parts.one_tower:OneTower"}, "text": {"family": "shared"}}


def settings(**optimizer):
    config = base()
    config.model.update({"name": "ViT-demo", **FAMILIES})
    config.optimizer.update(optimizer)
    return config


def test_both_modalities_use_the_same_parameters():
    model = clip.build(settings().model)
    variables = clip.init_variables(model, jax.random.key(0))
    parameters = variables["params"]
    assert set(parameters) == {"vision", "logit_scale"}
    texts = np.arange(48).reshape(2, 24)
    pooled = np.asarray(OneTowerModule(32, 128).apply({"params": parameters["vision"]}, texts).pooled, np.float64)
    expected = pooled / np.linalg.norm(pooled, axis=-1, keepdims=True)
    found = model.apply(variables, texts, method="encode_text")
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "frozen"),
    [({}, ()), ({"frozen": ("^vision/",)}, ("vision", "text")), ({"frozen": ("^vision/shared",)}, ()),
     ({"frozen": ("^vision/",), "lora": (("shared/kernel", 2),)}, ())],
)  # fmt: skip
def test_a_shared_tower_is_frozen_for_both_or_for_none(mesh_of, optimizer, frozen):
    assert build_experiment(settings(**optimizer), mesh_of(1), total_steps=1).model.frozen == frozen


def test_an_encoder_of_images_only_cannot_be_shared():
    config = settings()
    config.model.vision.family = "vit"
    with pytest.raises(UserError, match="'shared' expects an image encoder that encodes texts too; found VisionTransf"):
        preset_of(config.model)


@pytest.mark.slow
def test_it_is_trained_resumed_and_evaluated(tmp_path):
    recipe = tmp_path / "mine.py"
    recipe.write_text("import tests.own_parts.one_tower\nfrom configs.demo import get_config\n")
    flags = [f"--config.model.{name}.family={value['family']}" for name, value in FAMILIES.items()]
    train = [
        "train",
        "--config",
        recipe,
        "--workdir",
        tmp_path / "run",
        *flags,
        "--config.train.global_batch_size=16",
        "--config.data.validation_examples=32",
        "--config.data.workers=0",
        "--config.optimizer.schedule=constant",
    ]
    run(*train, "--config.train.steps=2")
    assert "resuming from step 2" in run(*train, "--config.train.steps=4").stdout
    assert "recall_1" in run("evaluate", "--tasks=retrieval", "--config", recipe, "--workdir", tmp_path / "run").stdout
