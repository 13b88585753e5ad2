"""One step: what learns, what stays, what is random, and that the number of devices does not matter."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from configs import demo
from rankclip_jax.models.clip import Clip
from rankclip_jax.models.presets import PRESETS, Preset
from rankclip_jax.models.resnet import ResNetConfig
from rankclip_jax.models.text_transformer import TextTransformerConfig
from rankclip_jax.models.vision_transformer import VisionTransformerConfig
from rankclip_jax.training.experiment import build_experiment
from rankclip_jax.training.state import create
from rankclip_jax.training.step import make_step

TEXT = TextTransformerConfig(width=64, layers=1, heads=1, context_length=24, vocabulary_size=1000)
VIT = Preset(64, VisionTransformerConfig(32, 8, 64, 2, 1), TEXT)
RESNET = Preset(64, ResNetConfig(32, 8, (1, 1, 1, 1)), TEXT)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    size = {"image": (16, 32, 32, 3), "image_augmented": (16, 32, 32, 3)}
    pixels = {name: rng.integers(0, 256, shape).astype(np.uint8) for name, shape in size.items()}
    ids = {name: rng.integers(1, 1000, (16, 24)).astype(np.int32) for name in ("text", "text_augmented")}
    return pixels | ids


@pytest.fixture(scope="module", autouse=True)
def small_presets():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "small ViT", VIT)
        patch.setitem(PRESETS, "small ResNet", RESNET)
        yield


def settings(name, objective="clip", **model):
    config = demo.get_config()
    config.objective.name = objective  # clip is quick to compile
    config.optimizer.name, config.optimizer.learning_rate = "adamw", 7e-4
    config.model.name = name
    config.model.update(model)
    config.train.global_batch_size = 16
    return config


@functools.cache
def start(name):
    """The state that all tests of a preset begin with, made once, since compiling it takes seconds."""
    mesh = Mesh(np.asarray(jax.devices()[:1]), ("data",))
    return jax.tree.map(np.asarray, create(build_experiment(settings(name), mesh, 100)))


def steps(config, batch, mesh, count=2):
    """The state after ``count`` steps, and their losses."""
    batch = {name: rows for name, rows in batch.items() if config.objective.second_view or "augmented" not in name}
    experiment = build_experiment(config, mesh, 100)
    state = create(experiment, start(config.model.name).variables)
    step, losses = make_step(experiment), []
    for _ in range(count):
        state, metrics = step(state, experiment.layout.put_rows(batch))
        losses.append(float(metrics["loss"]))
    return jax.tree.map(np.asarray, state), losses


def equal(first, second):
    return jax.tree.map(np.array_equal, first, second)


@pytest.fixture(scope="module")
def on_one_device(batch):
    return steps(settings("small ResNet"), batch, Mesh(np.asarray(jax.devices()[:1]), ("data",)))


@pytest.mark.slow
def test_batch_statistics_are_those_of_the_global_batch(on_one_device, batch, mesh_of):
    state, losses = on_one_device
    spread, same_losses = steps(settings("small ResNet"), batch, mesh_of(8))
    np.testing.assert_allclose(same_losses, losses, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), spread.batch_statistics, state.batch_statistics
    )
    assert not any(jax.tree.leaves(equal(state.batch_statistics, start("small ResNet").batch_statistics)))


@pytest.mark.slow
def test_a_resnet_of_which_blocks_are_computed_again_takes_the_same_steps(on_one_device, batch, mesh_of):
    again = settings("small ResNet", remat="blocks")
    np.testing.assert_allclose(steps(again, batch, mesh_of(1))[1], on_one_device[1], rtol=1e-5)


@pytest.mark.slow
def test_second_views_count_in_the_batch_statistics(on_one_device, batch, mesh_of):
    config = settings("small ResNet")
    config.objective.second_view = True
    state, _ = steps(config, batch, mesh_of(1))
    assert not any(jax.tree.leaves(equal(state.batch_statistics, on_one_device[0].batch_statistics)))


@pytest.mark.parametrize(("frozen", "learning"), [("vision", "text"), ("text", "vision")])
def test_a_frozen_tower_stays_as_it_is(frozen, learning, batch, mesh_of):
    before = start("small ResNet")
    config = settings("small ResNet")
    config.optimizer.frozen = (f"^{frozen}/",)
    after, _ = steps(config, batch, mesh_of(1))
    assert all(jax.tree.leaves(equal(before.parameters[frozen], after.parameters[frozen])))
    assert not all(jax.tree.leaves(equal(before.parameters[learning], after.parameters[learning])))
    statistics_stay = all(jax.tree.leaves(equal(before.batch_statistics, after.batch_statistics)))
    assert statistics_stay == (frozen == "vision")
    moments = sum(leaf.size for leaf in jax.tree.leaves(after.optimizer_state))
    learned = sum(leaf.size for leaf in jax.tree.leaves(after.parameters[learning]))
    assert moments < 2.1 * learned


def test_patch_dropout_leaves_out_other_patches_in_every_draw_and_none_in_evaluation(batch):
    model = Clip(dataclasses.replace(VIT, vision=dataclasses.replace(VIT.vision, patch_dropout=0.5)))
    pair = {"image": batch["image"][:4], "text": batch["text"][:4]}
    variables = jax.jit(lambda key: model.init(key, pair))(jax.random.key(0))

    def embed(train, draw=0):
        rngs = {"patch_dropout": jax.random.key(draw)}
        return model.apply(variables, pair, train=train, rngs=rngs).embeddings["image"]

    assert np.array_equal(embed(True, 1), embed(True, 1))
    assert np.abs(embed(True, 1) - embed(True, 2)).max() > 1e-4
    whole = Clip(VIT).apply(variables, pair).embeddings["image"]
    np.testing.assert_allclose(embed(False), whole, atol=1e-6)
    seen = jax.make_jaxpr(lambda pair: model.apply(variables, pair, train=True,
                          rngs={"patch_dropout": jax.random.key(0)}))(pair)  # fmt: skip
    assert f"f32[{4 * (1 + 8)},64]" in str(seen)  # 8 of 16 patches and the class token


@pytest.mark.slow
def test_patch_dropout_does_not_depend_on_the_devices(batch, mesh_of):
    one, eight = (
        steps(settings("small ViT", vision={"patch_dropout": 0.5}), batch, mesh_of(count), 1)[1] for count in (1, 8)
    )
    np.testing.assert_allclose(eight, one, rtol=1e-5)
