"""The loss against values that the released RankCLIP code gave, in PyTorch and float64 (tests/golden)."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import Step, rankclip, ranking
from tests.objectives import numpy_reference

GOLDEN = Path(__file__).parent.parent / "golden"
FILES = sorted(GOLDEN.glob("n*.npz"))
TIES = sorted(GOLDEN.glob("ties_*.npz"))


@pytest.fixture(scope="module", autouse=True)
def compiled_as_users_programs_are():
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def total_loss(golden, variant, dtype, key=0):
    """Value and gradients of the whole objective at the epoch of a golden file."""
    lambdas = float(golden.get("lambda1", 1)), float(golden.get("lambda2", 1))
    progress = (float(golden["epoch"]) - 1) / (float(golden["max_epochs"]) - 1)
    inputs = [jnp.asarray(golden[name], dtype) for name in ("image_embeds", "text_embeds", "logit_scale")]
    return program(variant, *lambdas)(*inputs, jnp.asarray(progress, dtype), jax.random.key(key))


@functools.cache
def program(variant, lambda_in, lambda_cross):
    """Compiled once for each size and type, whatever the epoch."""
    objective = rankclip.RankClip(variant=variant, lambda_in=lambda_in, lambda_cross=lambda_cross)

    def loss(image, text, logit_scale, progress, key):
        outputs = Outputs({"image": image, "text": text}, {"scale": jnp.exp(logit_scale)})
        return objective.loss(outputs, Step(progress, key))[:2]

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


def assert_close(actual, expected, tolerance, floor=0.0):
    """Relative to the largest entry, with a floor for values that are lost in rounding themselves."""
    expected = np.asarray(expected)
    error = np.max(np.abs(np.asarray(actual, np.float64) - expected))
    assert error <= tolerance * np.max(np.abs(expected)) + floor


def assert_matches(golden, results, tolerance, floor):
    (total, metrics), gradients = results
    size = len(golden["image_embeds"])
    assert_close(total, golden["total_loss"], tolerance, floor)
    assert_close(metrics["contrastive"], golden["contrastive_loss"], tolerance, floor)
    if "inmodal_rank_loss" in golden:
        assert_close(metrics["in_modal"], golden["inmodal_rank_loss"] / size, tolerance)
        assert_close(metrics["cross_modal"], golden["crossmodal_rank_loss"] / size, tolerance)
    for name, gradient in zip(("image", "text", "logit_scale"), gradients, strict=True):
        assert_close(gradient, golden[f"grad_{name}"], tolerance, floor)


def load(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_released_variant_gives_the_released_codes_values_in_float32(path):
    golden = load(path)
    assert_matches(golden, total_loss(golden, "released", jnp.float32), 1e-5, floor=1e-12)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_released_variant_gives_the_released_codes_values_in_float64(path):
    golden = load(path)
    with jax.enable_x64(True):
        # Where the loss itself is 1e-6 the golden value carries the rounding of logits of 100.
        assert_matches(golden, total_loss(golden, "released", jnp.float64), 1e-10, floor=1e-14)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_exact_variant_is_the_definition_and_near_the_release_at_small_scales(path):
    golden = load(path)
    with jax.enable_x64(True):
        (total, metrics), _ = total_loss(golden, "exact", jnp.float64)
    scale = np.exp(golden["logit_scale"])
    expected = numpy_reference.consistency(golden["image_embeds"], golden["text_embeds"], scale)
    assert metrics["cross_modal"] == pytest.approx(expected["cross"][0], rel=1e-10)
    assert metrics["in_modal"] == pytest.approx(expected["in"][0], rel=1e-10)
    if "init" in path.stem:
        assert_close(total, golden["total_loss"], 3e-4)


def test_exact_and_released_part_ways_at_the_largest_scale():
    golden = load(GOLDEN / "n64_d64_max_e50.npz")
    (_, exact), _ = total_loss(golden, "exact", jnp.float32)
    (_, released), _ = total_loss(golden, "released", jnp.float32)
    assert released["in_modal"] > 2 * exact["in_modal"]


@pytest.mark.parametrize("path", TIES, ids=lambda path: path.stem)
def test_ties_are_broken_as_if_by_a_random_order(path):
    """The mean over keys is that of the release's draws, which a fixed order misses."""
    golden = load(path)
    image, text = (jnp.asarray(golden[name], jnp.float32) for name in ("image_embeds", "text_embeds"))
    scale = jnp.exp(jnp.float32(golden["logit_scale"]))

    def terms(key):
        return jnp.stack(ranking.consistency(image, text, scale, variant="released", key=key))

    draws = 128
    cross, within = jax.jit(lambda keys: jax.lax.map(terms, keys))(jax.random.split(jax.random.key(1), draws)).T
    for ours, name in ((cross, "crossmodal_draws"), (within, "inmodal_draws")):
        released = golden[name] / len(image)
        error = np.hypot(released.std() / np.sqrt(len(released)), np.std(ours) / np.sqrt(draws))
        assert abs(np.mean(ours) - released.mean()) < 5 * error + 1e-7
        # The release draws an order for each of a term's two lists, we one for both: alike, not equal.
        assert 0.5 * released.std() < np.std(ours) < 2 * released.std()
