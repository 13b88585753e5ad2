"""The two-tower model: CLIP's architecture and initialisation, and what the seam promises."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from input_pipeline.tokenizer import tokenize
from rankclip_jax.models.clip import Clip
from rankclip_jax.models.presets import PRESETS
from rankclip_jax.models.transformer import ACTIVATIONS, Execution

DEMO = PRESETS["ViT-demo"]


@pytest.fixture(scope="module")
def variables():
    return Clip(DEMO).init(jax.random.key(0), *inputs(1))


def inputs(rows):
    image = np.random.default_rng(0).integers(0, 256, (rows, 32, 32, 3)).astype(np.uint8)
    captions = [f"a picture of a red circle, number {row}." for row in range(rows)]
    return jnp.asarray(image), jnp.asarray(tokenize(captions, DEMO.text.context_length))


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
            jax.random.key(0), jnp.zeros((1, size, size, 3), jnp.uint8), jnp.zeros((1, 77), jnp.int32)
        )
    )
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"])) == COUNTS[name]
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_outputs_keep_the_seam(variables):
    outputs = Clip(DEMO, Execution(jnp.dtype("bfloat16"))).apply(variables, *inputs(4))
    assert {name: (value.shape, value.dtype.name) for name, value in outputs.items()} == {
        "image_embedding": ((4, 128), "float32"),
        "text_embedding": ((4, 128), "float32"),
        "logit_scale": ((), "float32"),
    }
    assert outputs["logit_scale"] == pytest.approx(1 / 0.07, rel=1e-6)
    for name in ("image_embedding", "text_embedding"):
        np.testing.assert_allclose(np.linalg.norm(outputs[name], axis=1), 1, rtol=1e-6)


def test_bfloat16_computes_nearly_the_same(variables):
    full, half = (
        Clip(DEMO, Execution(jnp.dtype(dtype))).apply(variables, *inputs(4)) for dtype in ("float32", "bfloat16")
    )
    assert np.sum(full["image_embedding"] * half["image_embedding"], axis=1).min() > 0.999


def test_scanning_over_layers_changes_nothing(variables):
    looped, unrolled = (Clip(DEMO, Execution(scan_layers=scan)).apply(variables, *inputs(4)) for scan in (True, False))
    np.testing.assert_allclose(looped["image_embedding"], unrolled["image_embedding"], atol=1e-6)
    np.testing.assert_allclose(looped["text_embedding"], unrolled["text_embedding"], atol=1e-6)


@pytest.mark.parametrize("scan", [True, False])
def test_rematerialising_changes_no_gradient(variables, scan):
    def gradients(rematerialise):
        model = Clip(DEMO, Execution(scan_layers=scan, rematerialise=rematerialise))
        return jax.jit(jax.grad(lambda v: model.apply(v, *inputs(4))["image_embedding"][:, 0].sum()))(variables)

    for kept, computed_again in zip(*map(jax.tree.leaves, (gradients(False), gradients(True))), strict=True):
        np.testing.assert_allclose(computed_again, kept, atol=1e-5)


def test_the_activation_is_a_choice(variables):
    quick, exact = (Clip(DEMO, Execution(activation=name)).apply(variables, *inputs(4)) for name in ACTIVATIONS)
    difference = np.abs(quick["image_embedding"] - exact["image_embedding"]).max()
    assert 1e-5 < difference < 0.1


def test_what_follows_the_end_of_text_does_not_matter(variables):
    _, text = inputs(1)
    end = int(jnp.argmax(text[0]))
    encode = jax.jit(lambda text: Clip(DEMO).apply(variables, text, method="encode_text"))
    np.testing.assert_allclose(encode(text.at[0, end + 1 :].set(17)), encode(text), atol=1e-6)
    assert np.abs(encode(text.at[0, 2].set(17)) - encode(text)).max() > 1e-3


def test_initial_weights_have_clips_deviations():
    preset = dataclasses.replace(PRESETS["ViT-B-32"], text=dataclasses.replace(DEMO.text, width=512, layers=2))
    image = jnp.zeros((1, 224, 224, 3), jnp.uint8)
    params = Clip(preset).init(jax.random.key(0), image, jnp.zeros((1, 24), jnp.int32))["params"]
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


def test_a_blank_row_has_finite_gradients(variables):
    image, text = inputs(2)

    def total(params):
        outputs = Clip(DEMO).apply({"params": params}, image * 0, text * 0)
        return jnp.sum(outputs["image_embedding"][0] + outputs["text_embedding"][0])

    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.grad(total)(variables["params"])))
