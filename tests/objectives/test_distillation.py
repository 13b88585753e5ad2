"""Distillation from teachers against loops in float64, with any number of teachers, devices and chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import OBJECTIVES, Step
from rankclip_jax.objectives.teacher import views
from tests.objectives import numpy_reference as reference

SCALE, SIZE = 9.0, 16
TEACHER_SCALES = (40.0, 3.0)


def made(name, **changes):
    kind = OBJECTIVES[name]
    return kind(**({key: setting.default for key, setting in kind.declared().items()} | changes))


def pairs():
    """The student's embeddings and those of two teachers, of other widths."""
    student = tuple(reference.unit_rows(seed, SIZE, 6) for seed in (0, 1))
    teachers = [tuple(reference.unit_rows(10 * width + seed, SIZE, width) for seed in (0, 1)) for width in (5, 9)]
    return student, teachers


def outputs(teachers=2):
    (x, t), taught = pairs()
    embeddings = {"image": x, "text": t}
    for number, (pair, scale) in enumerate(zip(taught[:teachers], TEACHER_SCALES, strict=False)):
        embeddings |= dict(zip(views(number), (np.sqrt(scale) * rows for rows in pair), strict=True))
    return Outputs({name: jnp.asarray(rows) for name, rows in embeddings.items()}, {"scale": jnp.asarray(SCALE)})


def rank_terms(x, t, a, b):
    """The list-wise losses of the student's scores in the order of a teacher's."""
    cross = [reference.listmle(SCALE * x @ t.T, a @ b.T)[0], reference.listmle(SCALE * t @ x.T, b @ a.T)[0]]
    within = [reference.listmle(SCALE * x @ x.T, a @ a.T)[0], reference.listmle(SCALE * t @ t.T, b @ b.T)[0]]
    return tuple(sum(losses).mean() / 32 / SIZE for losses in (cross, within))


def divergence(x, t, a, b, scale):
    total = 0.0
    for student, taught in ((x @ t.T, a @ b.T), (t @ x.T, b @ a.T)):
        target, log_p = reference.log_softmax(scale * taught), reference.log_softmax(SCALE * student)
        total += np.sum(np.exp(target) * (target - log_p)) / SIZE / 2
    return total


@pytest.mark.parametrize("devices", [1, 8])
def test_rank_distillation_is_the_list_wise_loss_in_the_teachers_orders(mesh_of, devices):
    (x, t), taught = pairs()
    terms = np.mean([rank_terms(x, t, *pair) for pair in taught], axis=0)
    objective = made("rank_distillation", lambda_in=0.7, chunk_size=2, distillation_weight=1.5)
    with jax.enable_x64(True):
        result = objective.loss(outputs(), Step(0.0, jax.random.key(0), mesh_of(devices)))
    assert result.metrics["cross_modal"] == pytest.approx(terms[0], rel=1e-10)
    assert result.metrics["in_modal"] == pytest.approx(terms[1], rel=1e-10)
    expected = reference.contrastive(x, t, SCALE) + 1.5 * (terms[0] + 0.7 * terms[1])
    assert result.loss == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("devices", [1, 8])
def test_affinity_distillation_is_the_divergence_from_the_teachers_probabilities(mesh_of, devices):
    (x, t), taught = pairs()
    expected = np.mean([divergence(x, t, *pair, scale) for pair, scale in zip(taught, TEACHER_SCALES, strict=True)])
    objective = made("affinity_distillation", distillation_fraction=0.3, chunk_size=2)
    with jax.enable_x64(True):
        result = objective.loss(outputs(), Step(0.0, jax.random.key(0), mesh_of(devices)))
    assert result.metrics["divergence"] == pytest.approx(expected, rel=1e-10)
    assert result.loss == pytest.approx(0.7 * reference.contrastive(x, t, SCALE) + 0.3 * expected, rel=1e-10)


@pytest.mark.parametrize("name", reference.DISTILLATIONS)
def test_gradients_reach_the_student_alone(name):
    objective = made(name)

    def loss(embeddings):
        return objective.loss(outputs()._replace(embeddings=embeddings), Step(0.0, None)).loss

    with jax.enable_x64(True):
        embeddings = outputs().embeddings
        gradients = jax.grad(loss)(embeddings)
        along = {name: np.random.default_rng(3).normal(size=rows.shape) for name, rows in embeddings.items()}
        along |= {name: np.zeros(rows.shape) for name, rows in embeddings.items() if name.startswith("teacher")}
        slope = sum(float(np.vdot(gradients[name], along[name])) for name in embeddings)
        step = 1e-7
        ends = [loss({key: rows + e * along[key] for key, rows in embeddings.items()}) for e in (step, -step)]
    assert slope == pytest.approx(float(ends[0] - ends[1]) / (2 * step), rel=1e-6)
    for view, gradient in gradients.items():
        assert np.any(gradient) != view.startswith("teacher")


@pytest.mark.parametrize("name", reference.DISTILLATIONS)
def test_without_a_teacher_the_loss_is_the_contrastive_term(name):
    (x, t), _ = pairs()
    with jax.enable_x64(True):
        result = made(name).loss(outputs(teachers=0), Step(1.0, None))
    assert result.loss == pytest.approx(reference.contrastive(x, t, SCALE), rel=1e-12)


def test_a_teachers_scale_does_not_change_its_order():
    with jax.enable_x64(True):
        one, other = outputs(teachers=1), outputs(teachers=1)
        other = other._replace(embeddings={name: rows * (5.0 if name.startswith("teacher") else 1.0)
                                           for name, rows in other.embeddings.items()})  # fmt: skip
        losses = [made("rank_distillation").loss(each, Step(0.0, None)).loss for each in (one, other)]
    assert losses[0] == pytest.approx(float(losses[1]), rel=1e-12)
