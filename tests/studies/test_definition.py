"""Definitions of studies and the plans of their runs."""

import dataclasses

import pytest

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.studies.definition import Arm, Figure, Study, read, with_settings
from rankclip_jax.studies.plan import Plan, digest
from tests.studies.small_study import get_config

RATES = [{"optimizer.learning_rate": rate} for rate in (1e-3, 2e-3)]
SCALES = [{"model.initial_logit_scale": scale} for scale in (7.0,)]


def made(**changes):
    arms = {
        "clip": Arm({"objective.name": "clip"}, SCALES),
        "rank": Arm({"objective.name": "rankclip"}, [{"objective.lambda_in": 0.5}], seeds=3),
        "short": Arm({"train.steps": 2}, like="rank", seeds=1),
    }
    settings = {"title": "S", "baseline": "clip", "arms": arms, "shared": [RATES], "choose_by": ("score",),
                "report": {"R": ("metric",)}, "seeds": 2, "first_seeds": 2}  # fmt: skip
    return Study(**settings | changes)


def names(study, scores):
    return [run and run.name for run in Plan(study, scores).runs()]


def test_runs_come_arm_by_arm_and_further_seeds_last():
    scores = {f"{arm}/tune{number}": 0.1 for arm in ("clip", "rank") for number in (1, 2, 3)}
    assert names(made(), scores) == [
        "clip/tune1", "clip/tune2", "clip/tune3", "clip/seed1", "clip/seed2",
        "rank/tune1", "rank/tune2", "rank/tune3", "rank/seed1", "rank/seed2", "short/seed1", "rank/seed3",
    ]  # fmt: skip


def test_settings_that_depend_on_missing_results_are_not_known():
    assert names(made(), {}) == ["clip/tune1", "clip/tune2", None, None, None, "rank/tune1", "rank/tune2"] + [None] * 5
    assert (
        names(made(), {"clip/tune1": 0.1, "clip/tune2": 0.2})[:5]
        == ["clip/tune1", "clip/tune2", "clip/tune3"] + [None] * 2
    )


def test_the_best_shared_setting_is_kept_for_an_arms_own_tries_and_variants_take_the_best_of_all():
    scores = {"rank/tune1": 0.3, "rank/tune2": 0.2}
    own = list(Plan(made(), scores).trials("rank"))[2]
    assert own.settings == {
        "objective.name": "rankclip", "optimizer.learning_rate": 1e-3, "objective.lambda_in": 0.5
    }  # fmt: skip
    for score, weight in ((0.4, 0.5), (0.3, None)):  # of equals, the first
        plan = Plan(made(), scores | {"rank/tune3": score})
        assert plan.chosen("rank").get("objective.lambda_in") == weight
        variant = plan.reported("short", 1)
        assert variant.settings == {**plan.chosen("rank"), "train.steps": 2}
        assert not variant.is_trial
        assert variant.seed == 1


def test_each_stage_starts_from_the_best_of_all_stages_before():
    study = made(shared=[RATES, [{"optimizer.weight_decay": 0.5}, {"optimizer.weight_decay": 0.7}]])
    scores = {"clip/tune1": 0.1, "clip/tune2": 0.3, "clip/tune3": 0.2, "clip/tune4": 0.1}
    own = list(Plan(study, scores).trials("clip"))[4]
    assert own.settings == {"objective.name": "clip", "optimizer.learning_rate": 2e-3, **SCALES[0]}
    assert list(Plan(study, scores | {"clip/tune4": 0.4}).trials("clip"))[4].settings == {
        **own.settings, "optimizer.weight_decay": 0.7
    }  # fmt: skip
    assert list(Plan(study, {"clip/tune1": 0.1}).trials("clip"))[2:] == [None] * 3


def test_a_student_waits_for_its_teacher():
    arms = made().arms | {"student": Arm({}, SCALES, teacher="short")}
    study = made(arms=arms)
    assert all(run is None for run in Plan(study, {}).trials("student"))
    scores = {f"rank/tune{number}": 0.1 for number in (1, 2, 3)}
    assert next(iter(Plan(study, scores).trials("student"))).teacher.name == "short/seed1"


def test_the_digest_is_that_of_what_determines_a_result():
    run = next(Plan(made(), {}).runs())
    config, first = get_config(), digest(next(Plan(made(), {}).runs()), get_config())
    config.data.train, config.data.workers, config.logging.every_steps = "elsewhere", 3, 7
    config.evaluation.tasks.unseen.path = "elsewhere"
    assert digest(run, config) == first
    config.optimizer.weight_decay = 0.3
    assert digest(run, config) != first
    changed = dataclasses.replace(run, seed=4)
    assert digest(changed, get_config()) != first
    taught = [dataclasses.replace(run, teacher=each) for each in (run, changed)]
    assert len({first, *(digest(each, get_config()) for each in taught)}) == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"baseline": "none"}, "baseline: unknown arm 'none'; choose from clip, rank, short"),
        ({"arms": {"clip": Arm({}, SCALES), "b": Arm({})}}, "same number of tries .* clip: 1, b: 0"),
        ({"arms": {"clip": Arm({}), "b/c": Arm({})}}, "found 'b/c'"),
        ({"arms": {"clip": Arm({}), "b": Arm({}, like="c")}}, "b: expected like= a tuned arm; found 'c'"),
        ({"arms": {"clip": Arm({}), "b": Arm({}, like="clip", tries=SCALES)}}, "not tuned; remove its tries"),
        ({"arms": {"clip": Arm({}), "b": Arm({}, teacher="c")}}, "b: unknown arm 'c'"),
        ({"lengths": {2.0: "long"}}, "lengths: unknown arm 'long'"),
        ({"figures": {"F": Figure("R", "x", {"l": {1.0: "no"}})}}, "figure 'F': unknown arm 'no'"),
        ({"figures": {"F": Figure("Q", "x", {})}}, "figure 'F': unknown column 'Q'; choose from R"),
    ],
)
def test_a_wrong_definition_is_reported(changes, said):
    with pytest.raises(UserError, match=said):
        made(**changes)


def test_a_recipe_without_a_study_is_reported(tmp_path):
    (tmp_path / "recipe.py").write_text("def get_config(): pass")
    with pytest.raises(UserError, match=r"defines no study; expected a function get_study\(\)"):
        read(tmp_path / "recipe.py")


@pytest.mark.parametrize("name", ["optimizer.rate", "optimiser.learning_rate", "learning_rate", "optimizer"])
def test_an_unknown_setting_is_reported(name):
    with pytest.raises(UserError, match=f"study: unknown setting '{name}'"):
        with_settings(get_config(), {name: 1.0})
