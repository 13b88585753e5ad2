"""The two-tower model: CLIP's architecture and initialisation, and what the seam promises."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from rankclip_jax.input_pipeline.tokenizer import tokenize
from rankclip_jax.models.activations import ACTIVATIONS
from rankclip_jax.models.attention import IMPLEMENTATIONS, choose
from rankclip_jax.models.clip import Clip, build
from rankclip_jax.models.execution import Execution
from rankclip_jax.models.presets import PRESETS
from rankclip_jax.models.remat import POLICIES
from rankclip_jax.models.transformer import Transformer
from rankclip_jax.planning.arithmetic import flops
from rankclip_jax.recipes import base

DEMO = PRESETS["ViT-demo"]


@pytest.fixture(scope="module")
def variables():
    return Clip(DEMO).init(jax.random.key(0), inputs(1))


def inputs(rows):
    image = np.random.default_rng(0).integers(0, 256, (rows, 32, 32, 3)).astype(np.uint8)
    captions = [f"a picture of a red circle, number {row}." for row in range(rows)]
    return {"image": jnp.asarray(image), "text": jnp.asarray(tokenize(captions, DEMO.text.context_length))}


# As open_clip counts them.
COUNTS = {
    "ViT-S-16": 62_257_537, "ViT-B-32": 151_277_313, "ViT-B-16": 149_620_737, "ViT-L-14": 427_616_513,
    "ViT-L-14-336": 427_944_193, "ViT-H-14": 986_109_441, "RN50": 102_007_137, "RN101": 119_688_033,
    "RN50x4": 178_300_601, "RN50x16": 290_979_217, "RN50x64": 623_258_305,
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
def test_presets_have_the_published_numbers_of_parameters(name):
    size = PRESETS[name].vision.image_size
    shapes = jax.eval_shape(
        lambda: Clip(PRESETS[name]).init(
            jax.random.key(0),
            {"image": jnp.zeros((1, size, size, 3), jnp.uint8), "text": jnp.zeros((1, 77), jnp.int32)},
        )
    )
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"])) == COUNTS[name]
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_outputs_keep_the_seam(variables):
    outputs = Clip(DEMO, Execution(jnp.dtype("bfloat16"))).apply(variables, inputs(4))
    assert set(outputs.embeddings) == {"image", "text"}
    assert set(outputs.scalars) == {"scale"}
    assert outputs.scalars["scale"] == pytest.approx(1 / 0.07, rel=1e-6)
    for rows in outputs.embeddings.values():
        assert (rows.shape, rows.dtype.name) == ((4, 128), "float32")
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)


def test_bfloat16_computes_nearly_the_same(variables):
    full, half = (
        Clip(DEMO, Execution(jnp.dtype(dtype))).apply(variables, inputs(4)) for dtype in ("float32", "bfloat16")
    )
    assert np.sum(full.embeddings["image"] * half.embeddings["image"], axis=1).min() > 0.999


def test_scanning_over_layers_changes_nothing(variables):
    looped, unrolled = (Clip(DEMO, Execution(scan_layers=scan)).apply(variables, inputs(4)) for scan in (True, False))
    np.testing.assert_allclose(looped.embeddings["image"], unrolled.embeddings["image"], atol=1e-6)
    np.testing.assert_allclose(looped.embeddings["text"], unrolled.embeddings["text"], atol=1e-6)


def test_layers_are_looped_over_where_that_pays_unless_the_recipe_says_it():
    def loops(platform, layers, **settings):
        config = base().model
        config.update(settings)
        return build(config, platform).execution.loops_over(layers)

    assert (loops("gpu", 12), loops("tpu", 12), loops("cpu", 12)) == (False, True, False)
    assert (loops("gpu", 24), loops("tpu", 24), loops("cpu", 24)) == (True, True, False)
    assert not loops("gpu", 24, scan_layers=False)
    assert loops("cpu", 1, scan_layers=True)


def test_flash_attention_is_taken_where_a_gpu_16_bits_and_length_make_it_win():
    def chosen(length, **changes):
        where = {"platform": "gpu", "dtype": jnp.dtype("bfloat16")} | changes
        return [choose(setting, length=length, **where) for setting in IMPLEMENTATIONS]

    assert IMPLEMENTATIONS == ("auto", "xla", "cudnn")
    assert chosen(197) == chosen(77) == ["cudnn", "xla", "cudnn"]
    assert chosen(24) == ["xla", "xla", "cudnn"]
    assert chosen(197, dtype=jnp.dtype("float32")) == ["xla"] * 3
    assert chosen(197, platform="cpu") == chosen(197, platform="tpu") == ["xla"] * 3


@pytest.mark.parametrize(
    ("layers", "scan", "remat"),
    [(1, True, "none"), (3, True, "cheap"), (3, False, "cheap"), (3, False, "blocks")],
)
@pytest.mark.parametrize("causal", [True, False])
def test_a_token_that_is_read_out_is_that_of_all_tokens_and_so_are_its_gradients(layers, causal, scan, remat):
    execution = Execution(scan_layers=scan, remat=remat)
    transformer = Transformer(width=32, heads=4, layers=layers, causal=causal, execution=execution)
    x = jax.random.normal(jax.random.key(0), (3, 7, 32))
    token, weights = jnp.asarray([0, 6, 2]), jax.random.normal(jax.random.key(1), (3, 32))
    variables = transformer.init(jax.random.key(2), x)

    def picked(variables, x):
        return jnp.sum(transformer.apply(variables, x)[jnp.arange(3), token] * weights)

    def read_out(variables, x):
        return jnp.sum(transformer.apply(variables, x, token=token) * weights)

    expected, found = (jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(variables, x) for f in (picked, read_out))
    for one, other in zip(*map(jax.tree.leaves, (expected, found)), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-5)


def test_of_the_last_block_only_the_token_that_is_read_out_is_computed():
    transformer = Transformer(width=32, heads=4, layers=3, causal=True, execution=Execution())
    x, token = jnp.zeros((5, 7, 32)), jnp.zeros(5, jnp.int32)
    variables = transformer.init(jax.random.key(0), x)

    def operations(*tokens):
        return flops(jax.jit(transformer.apply).trace(variables, x, None, *tokens)).total()

    # Of a block's 12 products of widths, a token's keys and values are two; attention asks for one row of seven.
    elsewhere, attention = 2 * 5 * 6 * 10 * 32**2, 2 * 2 * 5 * 6 * 7 * 32
    assert operations() - operations(token) == elsewhere + attention


@pytest.mark.parametrize("choice", POLICIES)
@pytest.mark.parametrize("scan", [True, False])
def test_rematerialising_changes_no_gradient(variables, scan, choice):
    def gradients(remat):
        model = Clip(DEMO, Execution(scan_layers=scan, remat=remat))
        return jax.jit(jax.grad(lambda v: model.apply(v, inputs(4)).embeddings["image"][:, 0].sum()))(variables)

    for kept, computed_again in zip(*map(jax.tree.leaves, (gradients("none"), gradients(choice))), strict=True):
        np.testing.assert_allclose(computed_again, kept, atol=1e-5)


def test_the_activation_is_a_choice(variables):
    quick, exact = (Clip(DEMO, Execution(activation=name)).apply(variables, inputs(4)) for name in ACTIVATIONS)
    difference = np.abs(quick.embeddings["image"] - exact.embeddings["image"]).max()
    assert 1e-5 < difference < 0.1


def test_what_follows_the_end_of_text_does_not_matter(variables):
    text = inputs(1)["text"]
    end = int(jnp.argmax(text[0]))
    encode = jax.jit(lambda text: Clip(DEMO).apply(variables, text, method="encode_text"))
    np.testing.assert_allclose(encode(text.at[0, end + 1 :].set(17)), encode(text), atol=1e-6)
    assert np.abs(encode(text.at[0, 2].set(17)) - encode(text)).max() > 1e-3


@pytest.mark.slow
def test_initial_weights_have_clips_deviations():
    preset = dataclasses.replace(PRESETS["ViT-B-32"], text=dataclasses.replace(DEMO.text, width=512, layers=2))
    batch = {"image": jnp.zeros((1, 224, 224, 3), jnp.uint8), "text": jnp.zeros((1, 24), jnp.int32)}
    params = Clip(preset).init(jax.random.key(0), batch)["params"]
    deviations = {name: float(value.std()) for name, value in flatten_dict(params, sep="/").items()}
    width, layers = 768, 12
    expected = {
        "vision/class_embedding": width**-0.5,
        "vision/positional_embedding": width**-0.5,
        "vision/projection/kernel": width**-0.5,
        "vision/patch_embedding/kernel": (3 * 32 * 32 * 3) ** -0.5,
        "vision/transformer/blocks/attention_in/kernel": width**-0.5,
        "vision/transformer/blocks/attention_out/kernel": (width * 2 * layers) ** -0.5,
        "vision/transformer/blocks/mlp_in/kernel": (2 * width) ** -0.5,
        "vision/transformer/blocks/mlp_out/kernel": (width * 2 * layers) ** -0.5,
        "text/token_embedding/embedding": 0.02,
        "text/positional_embedding": 0.01,
        "text/projection/kernel": 512**-0.5,
    }
    for name, deviation in expected.items():
        assert deviations[name] == pytest.approx(deviation, rel=0.05), name
    assert all(value == 0 for name, value in deviations.items() if name.endswith(("bias", "scale")))


@pytest.mark.slow
def test_a_blank_row_has_finite_gradients(variables):
    blank = jax.tree.map(lambda rows: rows * 0, inputs(2))

    def total(params):
        outputs = Clip(DEMO).apply({"params": params}, blank)
        return jnp.sum(outputs.embeddings["image"][0] + outputs.embeddings["text"][0])

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.grad(total)(variables["params"])))


def test_pixels_are_normalised_as_the_settings_say(variables):
    """SigLIP's mean and deviation of a half: black and white become -1 and 1."""
    batch = inputs(2)
    shifted = Clip(DEMO, pixel_mean=(0.5,) * 3, pixel_std=(0.5,) * 3)
    expected = Clip(DEMO, pixel_mean=(0.0,) * 3, pixel_std=(1.0,) * 3)
    ours = shifted.apply(variables, batch).embeddings["image"]
    plain = Clip(DEMO).apply(variables, batch).embeddings["image"]
    assert np.abs(ours - plain).max() > 1e-4
    with jax.default_matmul_precision("highest"):
        by_hand = expected.apply(variables, batch["image"] / 127.5 * 255 - 255, method="encode_image")
    np.testing.assert_allclose(ours, by_hand, atol=1e-5)


def test_a_tower_that_pools_its_patches_has_no_class_token():
    model = Clip(dataclasses.replace(DEMO, vision=dataclasses.replace(DEMO.vision, pooling="mean")))
    variables = jax.jit(model.init)(jax.random.key(0), inputs(1))
    assert "class_embedding" not in variables["params"]["vision"]
    assert variables["params"]["vision"]["positional_embedding"].shape == (16, 128)
    swapped = inputs(1)["image"].reshape(1, 4, 8, 4, 8, 3)[:, ::-1].reshape(1, 32, 32, 3)
    no_places = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * 0 if path[-1].key == "positional_embedding" else leaf, variables
    )
    one, other = (model.apply(no_places, image, method="encode_image") for image in (inputs(1)["image"], swapped))
    np.testing.assert_allclose(one, other, atol=1e-5)  # without positions the order of patches is nothing to a mean
