"""FastCLIP's moving averages and temperatures, against loops in float64, and however the batch is split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import OBJECTIVES, Step
from tests.objectives import numpy_reference as reference

EXAMPLES, SIZE, SCALE = 40, 16, 20.0
SAMPLE = np.random.default_rng(0).permutation(EXAMPLES)[:SIZE]


def objective(**settings):
    config = base.get_config().objective
    config.update({"name": "fastclip", "chunk_size": 3} | settings)
    kind = OBJECTIVES["fastclip"]
    given = {name: settings.get(name, setting.default) for name, setting in kind.declared().items()}
    return kind(**(given | {"chunk_size": 3}))


def old_state(made):
    """A state in the middle of training, in which every third sample is new."""
    state = {name: np.asarray(value) for name, value in made.initial_state(EXAMPLES).items()}
    random = np.random.default_rng(5)
    seen = np.arange(EXAMPLES) % 3 > 0
    for row in ("image", "text"):
        state[f"log_average_{row}"] = np.where(seen, random.normal(size=EXAMPLES) - 2, -np.inf).astype(np.float32)
        if made.version == "v2":
            state[f"temperature_{row}"] = random.uniform(0.03, 0.2, EXAMPLES).astype(np.float32)
            state[f"first_moment_{row}"] = random.normal(size=EXAMPLES).astype(np.float32)
            state[f"second_moment_{row}"] = random.uniform(1, 2, EXAMPLES).astype(np.float32)
    if made.version == "v2":
        state["visits"] = np.where(seen, 7, 0).astype(np.int32)
    return state


def expected(made, x, t, state, gamma):
    """Loss, gradient of x by its estimator, and the new state, by loops from the formulas."""
    new = {name: value.astype(np.float64) for name, value in state.items()}
    loss, gradient = 0.0, np.zeros_like(x)
    for row, (own, other) in {"image": (x, t), "text": (t, x)}.items():
        for i, sample in enumerate(SAMPLE):
            temperature = state[f"temperature_{row}"][sample] if made.version == "v2" else 1 / SCALE
            h = np.delete((other - other[i]) @ own[i], i)
            terms = np.exp(h / temperature) / (SIZE - 1)
            old = np.exp(state[f"log_average_{row}"][sample].astype(np.float64))
            u = (1 - gamma) * old + gamma * terms.sum() if old else terms.sum()
            new[f"log_average_{row}"][sample] = np.log(u)
            log = np.log(1e-14 + u)
            loss += (log if made.version == "v1" else temperature * (log + made.rho)) / 2 / SIZE
            outer = (1 / temperature if made.version == "v1" else 1) / (1e-14 + u) / 2 / SIZE
            for term, j in zip(terms, np.delete(np.arange(SIZE), i), strict=True):
                if row == "image":
                    gradient[i] += outer * term * (t[j] - t[i])
                else:
                    gradient[j] += outer * term * t[i]
                    gradient[i] -= outer * term * t[i]
            if made.version == "v2":
                slope = np.clip(log + made.rho - (terms * h).sum() / temperature / (1e-14 + u), -5, 5)
                visits = state["visits"][sample] + 1
                first = 0.9 * state[f"first_moment_{row}"][sample] + 0.1 * slope
                second = 0.999 * state[f"second_moment_{row}"][sample] + 0.001 * slope**2
                move = first / (1 - 0.9**visits) / (np.sqrt(second / (1 - 0.999**visits)) + 1e-8)
                new[f"temperature_{row}"][sample] = np.clip(temperature - 0.0133 * move, 0.01, 1)
                new[f"first_moment_{row}"][sample], new[f"second_moment_{row}"][sample] = first, second
                new["visits"][sample] = visits
    return loss, gradient, new


@pytest.mark.parametrize("version", ["v1", "v2", "v3"])
@pytest.mark.parametrize("devices", [None, 8])
def test_loss_gradient_and_state_are_those_of_the_formulas(version, devices, mesh_of):
    made = objective(version=version)
    x, t = (reference.unit_rows(seed, SIZE, 6) for seed in (0, 1))
    state = old_state(made)

    def loss(x, t):
        step = Step(0.25, jax.random.key(0), devices and mesh_of(devices), jax.tree.map(jnp.asarray, state),
                    jnp.asarray(SAMPLE))  # fmt: skip
        result = made.loss(Outputs({"image": x, "text": t}, {"scale": jnp.asarray(SCALE)}), step)
        return result.loss, (result.state, result.metrics)

    with jax.enable_x64(True):
        arguments = [jnp.asarray(rows) for rows in (x, t)]
        (value, (found, metrics)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(*arguments)
    gamma = 0.2 + 0.8 * (1 + np.cos(np.pi / 2)) / 2  # half of the way down
    assert metrics["gamma"] == pytest.approx(gamma, rel=1e-6)
    loss_there, gradient_there, state_there = expected(made, x, t, state, gamma)
    assert value == pytest.approx(loss_there, rel=1e-6)
    np.testing.assert_allclose(gradient, gradient_there, rtol=1e-4, atol=1e-6 * np.abs(gradient_there).max())
    assert found.keys() == state.keys()
    for name, values in found.items():
        assert values.dtype == state[name].dtype
        np.testing.assert_allclose(values, state_there[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_temperature_of_v3_is_learned_and_that_of_v1_is_not():
    x, t = targets = tuple(reference.unit_rows(seed, SIZE, 6) for seed in (0, 1))

    def loss(scale, version):
        made = objective(version=version)
        step = Step(0.0, None, None, made.state(SIZE), jnp.arange(SIZE))
        embeddings = {"image": jnp.asarray(x), "text": jnp.asarray(t)}
        return made.loss(Outputs(embeddings, {"scale": scale}), step).loss

    with jax.enable_x64(True):
        assert jax.grad(loss)(jnp.asarray(SCALE), "v1") == 0
        slope = jax.grad(loss)(jnp.asarray(SCALE), "v3")
        ends = [reference.objective("fastclip", x, t, SCALE + e, 0.0, targets) for e in (1e-4, -1e-4)]
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-5)


def test_a_sample_seen_twice_in_a_batch_takes_the_last_pairs_state():
    made = objective(version="v3")
    step = Step(0.0, None, None, made.state(3), jnp.asarray([2, 0, 2, 0]))
    kept = {name: jnp.asarray([1.0, 2.0, 3.0, 4.0]) for name in made.initial_state(3)}
    for values in made.next_state(step, kept).values():
        np.testing.assert_array_equal(values, [4, -np.inf, 3])


def test_far_negatives_neither_overflow_nor_vanish():
    made = objective(version="v1")
    x = jnp.eye(8, dtype=jnp.float32)
    for t in (x, -x):  # every negative far below its pair, or far above
        step = Step(0.0, None, None, made.state(8), jnp.arange(8))

        def loss(x, t=t, step=step):
            result = made.loss(Outputs({"image": x, "text": t}, {"scale": jnp.float32(100)}), step)
            return result.loss, result.state

        (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(x)
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()
        assert all(np.isfinite(values).all() for values in state.values())
