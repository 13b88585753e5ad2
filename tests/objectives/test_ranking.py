"""ListMLE and the consistency terms against definitions written in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankclip_jax.objectives import ranking
from tests.objectives import numpy_reference as reference


def lists(seed, rows, size, spread):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, size)) * spread, rng.normal(size=(rows, size))


@pytest.mark.parametrize("spread", [0.1, 5, 50, 400])
@pytest.mark.parametrize("size", [1, 2, 31, 33, 100])
def test_listmle_is_the_plackett_luce_likelihood(spread, size):
    scores, relevance = lists(0, 4, size, spread)
    with jax.enable_x64(True):
        losses, backward = jax.vjp(lambda p: ranking.listmle(p, jnp.asarray(relevance)), jnp.asarray(scores))
        (gradient,) = backward(jnp.ones(4))
    expected, expected_gradient = reference.listmle(scores, relevance)
    np.testing.assert_allclose(losses, expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(
        gradient, expected_gradient, rtol=0, atol=1e-10 * max(np.abs(expected_gradient).max(), 1)
    )


@pytest.mark.parametrize("spread", [0.1, 5, 50, 400])
def test_listmle_in_float32_is_as_exact_as_float32_allows(spread):
    scores, relevance = (x.astype(np.float32) for x in lists(1, 4, 200, spread))
    losses, backward = jax.vjp(lambda p: ranking.listmle(p, relevance), scores)
    (gradient,) = backward(jnp.ones(4))
    expected, expected_gradient = reference.listmle(scores, relevance)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=1e-5 * np.abs(expected_gradient).max())


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_consistency_is_its_formula(scale):
    x, t = reference.unit_rows(0, 24, 8), reference.unit_rows(1, 24, 8)
    expected = reference.consistency(x, t, scale)
    with jax.enable_x64(True):
        for index, name in enumerate(("cross", "in")):
            value, gradients = jax.value_and_grad(
                lambda x, t, index=index: ranking.consistency(x, t, jnp.asarray(scale))[index], argnums=(0, 1)
            )(jnp.asarray(x), jnp.asarray(t))
            np.testing.assert_allclose(value, expected[name][0], rtol=1e-10)
            for gradient, expected_gradient in zip(gradients, expected[name][1:], strict=True):
                np.testing.assert_allclose(gradient, expected_gradient, atol=1e-10 * np.abs(expected_gradient).max())


def test_the_scales_gradient_is_the_slope():
    x, t = reference.unit_rows(2, 16, 8), reference.unit_rows(3, 16, 8)

    def cross(scale):
        return ranking.consistency(jnp.asarray(x), jnp.asarray(t), scale)[0]

    with jax.enable_x64(True):
        slope = (cross(jnp.asarray(20.001)) - cross(jnp.asarray(19.999))) / 0.002
        assert jax.grad(cross)(jnp.asarray(20.0)) == pytest.approx(float(slope), rel=1e-6)


def test_no_gradient_reaches_the_relevance():
    scores, relevance = lists(4, 3, 10, 1)
    gradient = jax.grad(lambda y: ranking.listmle(jnp.asarray(scores), y).sum())(jnp.asarray(relevance))
    assert not gradient.any()


def test_a_key_breaks_ties_at_random_and_reproducibly():
    scores, relevance = jnp.arange(8.0)[None], jnp.zeros((1, 8))
    draws = [float(ranking.listmle(scores, relevance, key=jax.random.key(seed))[0]) for seed in range(8)]
    assert len(set(draws)) > 4
    assert draws[3] == float(ranking.listmle(scores, relevance, key=jax.random.key(3))[0])


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="expected 'exact' or 'released'; found 'fast'"):
        ranking.listmle(jnp.zeros((1, 2)), jnp.zeros((1, 2)), variant="fast")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_descending_order_is_numpys_stable_order(dtype):
    values = np.random.default_rng(0).integers(-5, 5, (16, 50)).astype(dtype) / 3
    values[:, ::7] = -0.0
    with jax.enable_x64(dtype == np.float64):
        order = ranking.descending_order(jnp.asarray(values))
        both = ranking._sort_pairs(jnp.asarray(np.int32(values * 3)), jax.lax.broadcasted_iota(jnp.int32, (16, 50), 1))
    np.testing.assert_array_equal(order, np.argsort(-values, axis=1, kind="stable"))
    np.testing.assert_array_equal(both, np.argsort(np.int32(values * 3), axis=1, kind="stable"))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("size", [1, 32, 77])
def test_cumulative_sum_is_numpys_and_keeps_small_tails(size, reverse):
    x = np.exp(np.random.default_rng(0).normal(size=(3, size)) * 10).astype(np.float32)
    expected = np.cumsum(x[:, ::-1].astype(np.float64), 1)[:, ::-1] if reverse else np.cumsum(x.astype(np.float64), 1)
    np.testing.assert_allclose(ranking.cumulative_sum(jnp.asarray(x), reverse), expected, rtol=2e-6)
