"""Rows over devices and chunks: the same value and gradients however they are split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import OBJECTIVES, Step, pairwise, ranking
from tests.objectives import numpy_reference as reference


def evaluate(name, size, mesh, dtype):
    x, t = (jnp.asarray(reference.unit_rows(seed, size, 16), dtype) for seed in (0, 1))
    objective = OBJECTIVES[name].from_config(base.get_config().objective)

    def loss(x, t, logit_scale):
        own = {name: jnp.asarray(value, dtype) for name, value in objective.parameters().items()}
        outputs = Outputs({"image": x, "text": t}, {"scale": jnp.exp(logit_scale), **own})
        step = Step(jnp.asarray(0.5, dtype), jax.random.key(0), mesh, objective.state(size), jnp.arange(size))
        return objective.loss(outputs, step).loss

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(x, t, jnp.asarray(3.0, dtype))


@pytest.mark.parametrize("name", reference.OBJECTIVES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_eight_devices_give_the_value_and_gradients_of_one(name, dtype, mesh_of):
    with jax.enable_x64(dtype == jnp.float64):
        one, eight = (evaluate(name, 48, mesh, dtype) for mesh in (None, mesh_of(8)))
    tolerance = 1e-12 if dtype == jnp.float64 else 1e-5
    assert eight[0] == pytest.approx(float(one[0]), rel=tolerance / 10)
    for ours, expected in zip(eight[1], one[1], strict=True):
        np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_what_cannot_be_split_or_drawn_is_refused(mesh_of):
    x = jnp.asarray(reference.unit_rows(0, 12, 8), jnp.float32)
    with pytest.raises(ValueError, match="12 rows cannot be split evenly over 8 devices"):
        ranking.consistency(x, x, jnp.float32(14), mesh=mesh_of(8))
    with pytest.raises(ValueError, match="expected a key to sample the columns; found list_size=4 and key=None"):
        ranking.consistency(x, x, jnp.float32(14), list_size=4)


@pytest.mark.parametrize("chunk_size", [1, 5, 24, 1000])
def test_chunks_do_not_change_the_terms(chunk_size):
    x, t = (jnp.asarray(reference.unit_rows(seed, 24, 8), jnp.float32) for seed in (0, 1))

    def terms(x, chunk_size):
        return ranking.consistency(x, t, jnp.float32(14), key=jax.random.key(0), chunk_size=chunk_size)

    for index in range(2):
        value, gradient = jax.value_and_grad(lambda x, index=index: terms(x, chunk_size)[index])(x)
        expected, expected_gradient = jax.value_and_grad(lambda x, index=index: terms(x, None)[index])(x)
        assert value == pytest.approx(float(expected), rel=1e-6)
        np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5 * np.abs(expected_gradient).max())


def test_own_columns_follow_the_columns_random_order():
    """A loss that only knows the pairs on the diagonal."""
    x, t = (jnp.asarray(reference.unit_rows(seed, 10, 8), jnp.float32) for seed in (0, 1))

    def row_loss(similarity, scalars):
        return jnp.sum(jnp.where(similarity.own, similarity("image", "text"), 0), axis=1), {}

    step = Step(0, jax.random.key(3))
    value = pairwise.mean_over_rows(row_loss, {"image": x, "text": t}, {}, step, chunk_size=3).loss
    assert value == pytest.approx(float(jnp.mean(jnp.sum(x * t, axis=1))), rel=1e-5)


@pytest.mark.parametrize("devices", [None, 8])
def test_a_loss_takes_values_of_each_pair_and_keeps_others(devices, mesh_of):
    """Each row with the columns of its group, in any order, chunks and devices."""
    x, t = (jnp.asarray(reference.unit_rows(seed, 24, 8), jnp.float32) for seed in (0, 1))
    group = jnp.arange(24) % 5

    def row_loss(similarity, scalars):
        among = similarity.value("group")[:, None] == similarity.column_value("group")
        best = jnp.max(similarity("image", "text"), axis=1, where=among, initial=-2)
        similarity.keep("best", best)
        return best**2, {}

    def loss(x):
        step = Step(0, jax.random.key(3), devices and mesh_of(devices))
        mean = pairwise.mean_over_rows(
            row_loss, {"image": x, "text": t}, {}, step, chunk_size=2 if devices else 7, values={"group": group}
        )
        return mean.loss, mean.kept["best"]

    (value, kept), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(x)
    similar = np.where(np.asarray(group)[:, None] == np.asarray(group), np.asarray(x) @ np.asarray(t).T, -2)
    best = similar.max(axis=1)
    np.testing.assert_allclose(kept, best, rtol=1e-5)
    assert value == pytest.approx(np.mean(best**2), rel=1e-5)
    expected = 2 * best[:, None] * np.asarray(t)[similar.argmax(axis=1)] / 24
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
