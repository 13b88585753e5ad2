"""The same step on other meshes, in other layouts and in micro-batches: compared with one device, all at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from configs import demo
from rankclip_jax.distributed.mesh import AXES
from rankclip_jax.distributed.sharding import bytes_per_device, name_of, table
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.models.presets import PRESETS, Preset
from rankclip_jax.models.resnet import ResNetConfig
from rankclip_jax.models.text_transformer import TextTransformerConfig
from rankclip_jax.models.vision_transformer import VisionTransformerConfig
from rankclip_jax.objectives import OBJECTIVES, Step
from rankclip_jax.objectives.teacher import views
from rankclip_jax.training.experiment import build_experiment
from rankclip_jax.training.forward import forward
from rankclip_jax.training.state import abstract_state, create
from rankclip_jax.training.step import abstract_batch, make_step

SIZE = 32
TEXT = TextTransformerConfig(width=32, layers=1, heads=1, context_length=24, vocabulary_size=1000)
MODELS = {
    "small ViT": Preset(32, VisionTransformerConfig(32, 8, 32, 2, 1), TEXT),
    "small ResNet": Preset(32, ResNetConfig(32, 8, (1, 1, 1, 1)), TEXT),
}
MESHES = {"one": (1, 1, 1), "two": (1, 2, 1), "data": (1, 8, 1), "sharded": (1, 1, 8), "hybrid": (2, 2, 2)}


@pytest.fixture(scope="module", autouse=True)
def small_models():
    with pytest.MonkeyPatch.context() as patch:
        for name, preset in MODELS.items():
            patch.setitem(PRESETS, name, preset)
        yield


def grid(shape):
    devices = np.asarray(jax.devices()[: int(np.prod(shape))]).reshape(shape)
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 3)


def assembled(objective="clip", mesh="one", accumulation=1, model="small ViT", **changes):
    config = demo.get_config()
    config.objective.name, config.model.name = objective, model
    config.optimizer.name, config.optimizer.learning_rate = "adamw", 7e-4
    if model == "small ViT":
        config.model.vision = {"patch_dropout": 0.5}
    config.train.global_batch_size, config.train.accumulation = SIZE, accumulation
    for name, value in changes.items():
        section, key = name.split("__")
        config[section][key] = value
    return build_experiment(config, grid(MESHES[mesh]), 600)


@functools.cache
def batch(second_view=False):
    rng = np.random.default_rng(0)
    images = ("image", "image_augmented") if second_view else ("image",)
    pixels = {view: rng.integers(0, 256, (SIZE, 32, 32, 3)).astype(np.uint8) for view in images}
    return pixels | {
        view.replace("image", "text"): rng.integers(1, 1000, (SIZE, 24)).astype(np.int32) for view in images
    }


def taught(objective):
    """The embeddings of two teachers, for objectives that have them."""
    if not OBJECTIVES[objective].needs_teacher:
        return {}
    rng = np.random.default_rng(5)
    return {name: rng.normal(size=(SIZE, 8 + number)).astype(np.float32) for number in (0, 1) for name in views(number)}


@functools.cache
def start(objective, model="small ViT"):
    """The same weights for every layout."""
    variables = create(assembled(objective, model=model)).variables
    return jax.tree.map(np.asarray, variables)


def gradients(experiment, dtype=jnp.float32):
    """The loss and its gradient by every parameter, halfway through training."""
    state = create(experiment, start(experiment.config.objective.name, experiment.config.model.name))
    state = jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, state)

    def loss(parameters, batch):
        key = jax.random.key(3)
        outputs, _ = forward(experiment, parameters, state.batch_statistics, batch, key)
        step = Step(0.5, key, experiment.layout.mesh, experiment.objective.state(SIZE), jnp.arange(SIZE))
        return experiment.objective.loss(outputs, step).loss

    objective = experiment.config.objective
    rows = experiment.layout.put_rows(batch(objective.second_view) | taught(objective.name))
    value, gradient = jax.jit(jax.value_and_grad(loss))(state.parameters, rows)
    return float(value), jax.tree.map(np.asarray, gradient)


def assert_same(found, expected, tolerance):
    assert found[0] == pytest.approx(expected[0], rel=tolerance)
    pairs = zip(*map(jax.tree_util.tree_leaves_with_path, (found[1], expected[1])), strict=True)
    for (path, ours), (_, theirs) in pairs:
        np.testing.assert_allclose(
            ours, theirs, rtol=tolerance, atol=tolerance * np.abs(theirs).max(), err_msg=jax.tree_util.keystr(path)
        )


@pytest.mark.slow
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_micro_batches_in_a_hybrid_layout_give_the_gradients_of_the_whole_batch_on_one_device(objective):
    """GradCache is exact: the scale's and the bias's gradients too, and the patches that are left out are the same."""
    whole = gradients(assembled(objective))
    assert np.abs(whole[1]["logit_scale"]) > 0
    assert_same(gradients(assembled(objective, "hybrid", accumulation=2)), whole, 1e-5)


@pytest.mark.slow
def test_any_number_of_micro_batches_gives_the_gradients_of_the_whole_batch():
    whole = gradients(assembled("rankclip", objective__second_view=True))
    for count in (2, 8, 32):
        found = gradients(assembled("rankclip", accumulation=count, objective__second_view=True))
        assert_same(found, whole, 1e-5)


@pytest.mark.slow
def test_in_double_precision_micro_batches_differ_by_rounding_alone(monkeypatch):
    def attention(query, key, value, mask, is_causal, key_value_seq_lengths, implementation):
        """JAX's own has a float32 softmax, whatever the type."""
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(query.shape[-1])
        seen = jnp.tril(jnp.ones(scores.shape[-2:], bool)) if is_causal else True
        return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, where=seen), value)

    monkeypatch.setattr(jax.nn, "dot_product_attention", attention)
    with jax.enable_x64(True):
        whole, parts = (
            gradients(assembled("rankclip", accumulation=count, model__dtype="float64"), jnp.float64)
            for count in (1, 8)
        )
    assert whole[1]["logit_scale"].dtype == np.float64
    assert_same(parts, whole, 1e-10)


@pytest.mark.slow
def test_every_layout_takes_the_steps_of_one_device():
    for mesh in ("two", "data", "sharded", "hybrid"):
        np.testing.assert_allclose(losses("rankclip", mesh), losses("rankclip", "one"), rtol=1e-5, err_msg=mesh)


@functools.cache
def losses(objective, mesh):
    """Of 20 steps."""
    experiment = assembled(objective, mesh)
    state, step = create(experiment, start(objective)), make_step(experiment)
    rows, found = experiment.layout.put_rows(batch()), []
    for _ in range(20):
        state, metrics = step(state, rows)
        found.append(float(metrics["loss"]))
    return found


def test_a_fully_sharded_state_takes_an_eighth_of_the_bytes():
    one, eight = (
        bytes_per_device(abstract_state(assembled("rankclip", mesh, model="ViT-B-32"))) for mesh in ("one", "sharded")
    )
    assert eight <= 1.02 * one / 8


def test_the_table_says_of_each_array_how_it_lies():
    experiment = assembled("clip", "sharded", mesh__overrides=(("text/token_embedding", -1), ("vision/projection", 0)))
    parameters = {"parameters": abstract_state(experiment).parameters}
    lines = {line.split()[0]: line for line in table(parameters, experiment.layout).splitlines()}
    for path, leaf in jax.tree_util.tree_leaves_with_path(parameters):
        line, own = lines[name_of(path)], leaf.sharding.shard_shape(leaf.shape)
        sides = [f"{size}/8" if part < size else str(size) for size, part in zip(leaf.shape, own, strict=True)]
        assert f"[{', '.join(sides)}]" in line
        assert line.endswith(f"{4 * np.prod(own) / 2**20:.3f} MiB")
    assert "[1000, 32]" in lines["parameters/text/token_embedding/embedding"]
    assert "[32/8, 32]" in lines["parameters/vision/projection/kernel"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (("visoin", 0), "'visoin' matches no array of the state"),
        (("token_embedding", 2), "cannot be split along dimension 2 into 8 parts"),
    ],
)
def test_an_override_that_cannot_be_is_refused(override, said):
    with pytest.raises(UserError, match=f"config.mesh.overrides: .*{said}"):
        abstract_state(assembled("clip", "sharded", mesh__overrides=(override,)))


def test_what_a_step_keeps_falls_with_the_number_of_micro_batches():
    def temporaries(count):
        experiment = assembled("clip", accumulation=count, train__global_batch_size=256)
        return (
            make_step(experiment)
            .lower(abstract_state(experiment), abstract_batch(experiment))
            .compile()
            .memory_analysis()
        )

    whole, parts = (temporaries(count).temp_size_in_bytes for count in (1, 8))
    assert parts < whole / 4  # the embeddings, the gradients and the loss are the whole batch's in both
