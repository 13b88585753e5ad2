"""Every objective against an independent float64 NumPy version, with every option, at the edges."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.models.clip import Outputs, digest
from rankclip_jax.objectives import OBJECTIVES, Step, ranking, schedules
from tests.objectives import numpy_reference as reference


def evaluate(name, x, t, scale, *, mesh=None, key=0, views=None, progress=0.5, **settings):
    """Value and gradients with respect to both embeddings and the scale; settings override the defaults."""
    config = base.get_config().objective
    config.update(settings)
    objective = OBJECTIVES[name].from_config(config)

    def loss(x, t, scale):
        own = {"logit_bias": -3.0} if name == "siglip" else objective.parameters()
        embeddings = {"image": x, "text": t}
        if views:
            embeddings |= dict(zip(("image_augmented", "text_augmented"), views, strict=True))
        outputs = Outputs(embeddings, {"scale": scale, **jax.tree.map(jnp.float32, dict(own))})
        return objective.loss(outputs, step_of(objective, len(x), jnp.float32(progress), key, mesh))[:2]

    (value, metrics), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(x, t, scale)
    return value, gradients, metrics


def step_of(objective, size, progress, key=0, mesh=None):
    """A step whose samples are all new."""
    return Step(progress, jax.random.key(key), mesh, objective.state(size), jnp.arange(size))


def pair(size=14, width=6, dtype=jnp.float64):
    return tuple(jnp.asarray(reference.unit_rows(seed, size, width), dtype) for seed in (0, 1))


def test_every_objective_has_its_formula_here():
    own_files = {"superclip", *reference.DISTILLATIONS}
    assert {*reference.OBJECTIVES, *own_files} == set(OBJECTIVES)


@pytest.mark.parametrize("name", reference.OBJECTIVES)
@pytest.mark.parametrize("scale", [1.0, 12.0, 100.0])
def test_an_objective_is_its_formula(name, scale):
    x, t = (reference.unit_rows(seed, 14, 6) for seed in (0, 1))
    with jax.enable_x64(True):
        value, gradients, _ = evaluate(name, jnp.asarray(x), jnp.asarray(t), jnp.asarray(scale), chunk_size=5)
        assert value == pytest.approx(reference.objective(name, x, t, scale, -3.0, (x, t)), rel=1e-10)
        along = [np.random.default_rng(2).normal(size=x.shape) for _ in range(2)]
        slope = sum(float(np.vdot(gradient, v)) for gradient, v in zip(gradients[:2], along, strict=True))
    step = 1e-7  # small enough that no list changes its order
    ends = [reference.objective(name, x + e * along[0], t + e * along[1], scale, -3.0, (x, t)) for e in (step, -step)]
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("spread", [0.01, 0.1])
def test_the_contrastive_loss_stays_exact_however_small(spread):
    x = reference.unit_rows(0, 12, 8)
    t = x + spread * reference.unit_rows(1, 12, 8)
    expected = reference.contrastive(x, t, 30.0)
    value, _, _ = evaluate("clip", *(jnp.asarray(v, jnp.float32) for v in (x, t)), jnp.float32(30))
    assert value == pytest.approx(expected, rel=2e-5)


EDGES = {
    "identical": lambda size: jnp.ones((size, 16)) / 4,
    "orthogonal": lambda size: jnp.eye(size, 16),
    "random": lambda size: jnp.asarray(reference.unit_rows(5, size, 16), jnp.float32),
}


@pytest.mark.parametrize("name", reference.OBJECTIVES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("edge", EDGES)
def test_extreme_inputs_stay_finite(name, edge, dtype, mesh_of):
    """Scales at both limits, a row a device, rows all alike or orthogonal, low precision."""
    x = EDGES[edge](8).astype(dtype)
    for scale in (1.0, 100.0):
        value, gradients, _ = evaluate(name, x, x, jnp.float32(scale), mesh=mesh_of(8), second_view=False)
        assert np.isfinite(value)
        assert all(np.isfinite(np.asarray(gradient, np.float32)).all() for gradient in gradients)


def test_lambdas_and_the_ramp_weigh_the_terms():
    with jax.enable_x64(True):
        x, t = pair()
        expected = reference.consistency(np.asarray(x), np.asarray(t), 5.0)
        for progress, weight in ((0.0, 0.0), (1 / 3, 1.0), (1.0, 2.0)):
            value, _, metrics = evaluate(
                "rankclip", x, t, jnp.asarray(5.0), progress=progress, lambda_cross=0.3, lambda_in=0.7
            )
            ranked = 0.3 * expected["cross"][0] + 0.7 * expected["in"][0]
            assert value == pytest.approx(float(metrics["contrastive"]) + weight * ranked, rel=1e-6)


def test_a_ramp_of_no_length_is_its_end():
    assert schedules.ramp(jnp.float32(0), 0.0, 2.0, 0.0) == 2
    np.testing.assert_allclose(schedules.ramp(jnp.linspace(0, 1, 4), 0.0, 2.0, 2 / 3), [0, 1, 2, 2], rtol=1e-6)


def test_position_decay_weighs_each_place():
    scores, relevance = (np.random.default_rng(seed).normal(size=(3, 9)) * 4 for seed in (0, 1))
    for variant in ("exact", "released"):
        with jax.enable_x64(True):
            losses, backward = jax.vjp(
                lambda p, variant=variant: ranking.listmle(
                    p, jnp.asarray(relevance), variant=variant, position_decay=True
                ),
                jnp.asarray(scores),
            )
            losses, gradient = np.asarray(losses), np.asarray(backward(jnp.ones(3))[0])
        for row in range(3):
            ordered = scores[row][np.argsort(-relevance[row])]
            tails = [np.log(np.exp(ordered[k:]).sum()) for k in range(9)]
            expected = sum((tails[k] - ordered[k]) / np.log(k + 2) for k in range(9))
            assert losses[row] == pytest.approx(expected, rel=1e-7)
        moved = scores + 1e-6 * np.eye(3, 9)
        with jax.enable_x64(True):
            after = ranking.listmle(jnp.asarray(moved), jnp.asarray(relevance), variant=variant, position_decay=True)
        np.testing.assert_allclose((np.asarray(after) - losses) / 1e-6, np.diag(gradient), rtol=1e-3)


def test_the_ranking_scale_can_be_learned_held_or_fixed():
    with jax.enable_x64(True):
        x, t = pair()
        learned, held, fixed = (
            evaluate("ranking", x, t, jnp.asarray(5.0), ranking_scale=scale)
            for scale in ("learned", "learned_without_gradient", "9.5")
        )
        assert learned[0] == pytest.approx(float(held[0]), rel=1e-12)
        assert learned[1][2] != 0
        assert held[1][2] == fixed[1][2] == 0
        expected = reference.consistency(np.asarray(x), np.asarray(t), 9.5)
        assert fixed[0] == pytest.approx(expected["cross"][0] + expected["in"][0], rel=1e-10)


def test_a_list_size_gives_the_mean_over_random_sublists():
    """Every sublist of columns, by brute force, against the mean over keys."""
    with jax.enable_x64(True):
        x, t = pair(size=6, width=4)
        both = []
        for columns in itertools.combinations(range(6), 3):
            kept = np.asarray(columns)
            first, second = 5.0 * np.asarray(x) @ np.asarray(t)[kept].T, 5.0 * np.asarray(t) @ np.asarray(x)[kept].T
            losses = reference.listmle(first, second)[0] + reference.listmle(second, first)[0]
            both.append(losses.mean() / 32 / 3)

        def cross(key):
            return ranking.consistency(x, t, jnp.asarray(5.0), key=key, list_size=3)[0]

        keys = jax.random.split(jax.random.key(0), 400)
        draws = np.asarray(jax.jit(lambda keys: jax.lax.map(cross, keys))(keys))
    assert np.unique(np.round(draws, 12)).size <= len(both)
    assert np.mean(draws) == pytest.approx(np.mean(both), abs=4 * np.std(both) / 20)


def test_a_whole_list_size_changes_nothing():
    with jax.enable_x64(True):
        x, t = pair()
        whole, listed = (evaluate("rankclip", x, t, jnp.asarray(5.0), list_size=size) for size in (0, 14))
    assert whole[0] == pytest.approx(float(listed[0]), rel=1e-12)


# What each method weighs its contrastive term by, at the middle of training and with the default settings.
CONTRASTIVE_SHARE = {
    "clip": 1,
    "siglip": 1,
    "cyclip": 1,
    "rankclip": 1,
    "listnet": 1,
    "softclip": 0.5,
    "self_distillation": 0.75,
}


@pytest.mark.parametrize("name", CONTRASTIVE_SHARE)
def test_a_second_view_is_averaged_with_the_contrastive_term_alone(name, mesh_of):
    """CyCLIP and RankCLIP's release: (L_clip + L_second) / 2 + rest."""
    with jax.enable_x64(True):
        x, t = pair(size=16)
        views = tuple(jnp.asarray(reference.unit_rows(seed, 16, 6)) for seed in (2, 3))
        alone, _, terms = evaluate(name, x, t, jnp.asarray(5.0))
        both, _, metrics = evaluate(name, x, t, jnp.asarray(5.0), views=views)
        split, _, _ = evaluate(name, x, t, jnp.asarray(5.0), views=views, mesh=mesh_of(8))
    second = 0.0
    for rows, others in ((x, views[0]), (t, views[1])):
        second -= float(np.mean(np.diag(reference.log_softmax(5.0 * np.asarray(rows) @ np.asarray(others).T)))) / 2
    first = float(terms["sigmoid" if name == "siglip" else "contrastive"])
    if name != "siglip":
        assert first == pytest.approx(reference.contrastive(np.asarray(x), np.asarray(t), 5.0), rel=1e-10)
    assert metrics["second_view"] == pytest.approx(second, rel=1e-10)
    assert both == pytest.approx(float(alone) + CONTRASTIVE_SHARE[name] * (second - first) / 2, rel=1e-10)
    assert split == pytest.approx(float(both), rel=1e-12)


def test_ranking_alone_refuses_second_views():
    with pytest.raises(
        UserError,
        match=r"config\.objective\.second_view: expected False, since .*'ranking' has no contrastive term; found True",
    ):
        evaluate("ranking", *pair(dtype=jnp.float32), jnp.asarray(5.0), second_view=True)


@pytest.mark.parametrize("name", ["softclip", "self_distillation"])
def test_soft_targets_stay_soft_however_large_the_learned_scale(name):
    """At CLIP's learned scale they would be one-hot: with s = 100 nothing is left off a row's own pair."""
    rows = [np.ones(16) / 2 + reference.unit_rows(seed, 32, 16) for seed in (0, 1)]  # as alike as trained ones are
    x, t = (jnp.asarray(row / np.linalg.norm(row, axis=1, keepdims=True), jnp.float32) for row in rows)

    def soft(scale, target):
        return float(evaluate(name, x, t, jnp.float32(scale), target_scale=target, soft_fraction=1.0)[2]["soft"])

    def expected(target_scale):
        x64, t64 = (np.asarray(rows, np.float64) for rows in (x, t))
        total = 0.0
        for own, other in ((x64, t64), (t64, x64)):
            target = target_scale * (own @ own.T if name == "softclip" else other @ own.T)
            log_q, log_p = reference.log_softmax(target), reference.log_softmax(100.0 * own @ other.T)
            entropy = log_q if name == "softclip" else 0
            total += np.sum(np.exp(log_q) * (entropy - log_p), axis=1).mean() / 2
        return total

    alike = np.asarray(x, np.float64) @ np.asarray(x, np.float64).T
    off_the_pair = [1 - np.exp(np.diag(reference.log_softmax(s * alike))).mean() for s in (14.3, 100)]
    assert off_the_pair[0] > 0.1
    assert off_the_pair[1] < 0.005
    assert soft(100, "14.3") == pytest.approx(expected(14.3), rel=1e-5)
    assert soft(100, "learned") == pytest.approx(expected(100), rel=1e-5)


@pytest.mark.parametrize("setting", ["ranking_scale", "target_scale"])
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0", "many", ""])
def test_scales_that_no_loss_can_have_are_refused(setting, value):
    name = "rankclip" if setting == "ranking_scale" else "softclip"
    with pytest.raises(UserError, match=rf"config\.objective\.{setting}: expected learned, .* found '{value}'"):
        OBJECTIVES[name].declared()[setting].check(f"config.objective.{setting}", value)


def test_no_array_as_large_as_the_similarities_of_a_device_is_made(mesh_of):
    """Neither [B, B] nor [B / devices, B]: the largest temporary of the compiled program is a chunk's."""
    size, config = 1024, base.get_config().objective
    config.chunk_size = 16
    for objective in [kind.from_config(config) for kind in map(OBJECTIVES.get, reference.OBJECTIVES)]:

        def loss(x, t, objective=objective):
            outputs = Outputs({"image": x, "text": t}, {"scale": 5.0, **objective.parameters()})
            return objective.loss(outputs, step_of(objective, size, jnp.float32(1), mesh=mesh_of(8))).loss

        shape = jax.ShapeDtypeStruct((size, 8), jnp.float32)
        program = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(shape, shape).compile().as_text()
        assert f"[16,{size}]" in program
        assert f"[{size},{size}]" not in program
        assert f"[{size // 8},{size}]" not in program


TEXTS = np.asarray([0, 1, 2, 0, 3, 4, 1, 5, 0, 6, 7, 8, 9, 10, 11, 12])


def same_text(name, x, t, scale, bias):
    """The loss by its definition, with every pair of the same caption as a positive."""
    logits, same = scale * x @ t.T, TEXTS[:, None] == TEXTS
    if name == "siglip":
        return np.logaddexp(0, np.where(same, -1, 1) * (logits + bias)).sum() / len(x)
    total = 0.0
    for direction in (logits, logits.T):
        for row, positives in zip(reference.log_softmax(direction), same, strict=True):
            total -= row[positives].mean() / 2 / len(x)
    return total


@pytest.mark.parametrize("name", ["clip", "siglip"])
@pytest.mark.parametrize("devices", [None, 8])
def test_pairs_with_the_same_caption_are_positives(name, devices, mesh_of):
    x, t = (reference.unit_rows(seed, 16, 6) for seed in (0, 1))
    tokens = np.random.default_rng(3).integers(0, 49_408, (13, 77))[TEXTS]
    config = base.get_config().objective
    config.same_text, config.chunk_size = True, 3
    objective = OBJECTIVES[name].from_config(config)
    assert objective.needs_captions
    own = {"logit_bias": -3.0} if name == "siglip" else {}

    def loss(x, t):
        outputs = Outputs({"image": x, "text": t}, {"scale": jnp.asarray(9.0)} | own, captions=digest(tokens))
        return objective.loss(outputs, Step(0.5, jax.random.key(0), devices and mesh_of(devices))).loss

    with jax.enable_x64(True):
        value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(jnp.asarray(x), jnp.asarray(t))
    assert value == pytest.approx(same_text(name, x, t, 9.0, -3.0), rel=1e-10)
    along = [np.random.default_rng(2).normal(size=x.shape) for _ in range(2)]
    slope = sum(float(np.vdot(gradient, v)) for gradient, v in zip(gradients, along, strict=True))
    ends = [same_text(name, x + e * along[0], t + e * along[1], 9.0, -3.0) for e in (1e-6, -1e-6)]
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)


def test_digests_tell_captions_apart_by_every_token():
    tokens = np.zeros((1, 77), np.int32)
    others = np.tile(tokens, (2 * 77, 1))
    others[np.arange(77), np.arange(77)] = 1
    others[77 + np.arange(77), np.arange(77)] = 49_407
    found = np.concatenate([digest(tokens), digest(others), digest(np.roll(others, 1, axis=1)[:1])])
    assert len(np.unique(found[:-1], axis=0)) == 155
    assert found.dtype == np.uint32
