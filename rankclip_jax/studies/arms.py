"""The arms of the shipped studies: every built-in objective, tuned, and variants of the most important ones.

The numbers that a tuned arm tries are half and twice the default of its main setting.
"""

from collections.abc import Sequence
from typing import Any

from rankclip_jax.studies.definition import Arm, Figure, Settings

_WEIGHTS = (0.5, 1.0, 2.0, 4.0, 8.0)  # of the ranking terms at the end of their ramp

# The baseline at each length, as a multiple of the study's.
LENGTHS = {0.5: "clip_half", 1.0: "clip", 2.0: "clip_double"}


def every_arm(setting: str, length: int, gradients_every: int) -> dict[str, Arm]:
    """Returns the arms by name, most informative first.

    Args:
      setting: that of the length of a run, ``train.steps`` or ``train.epochs``.
      length: of a run, an even number.
      gradients_every: steps between two comparisons of the exact and the released gradients.
    """
    task = {"task": "rankclip_jax.studies.gradients:GradientAgreement", "every_steps": gradients_every}
    gradients = {"evaluation.tasks.gradients": task}
    high = {"model.initial_logit_scale": 50.0, **gradients}
    half, double = {setting: length // 2}, {setting: 2 * length}
    return {
        "clip": Arm({"objective.name": "clip"}, _scales(7.0, 28.0), seeds=5),
        "rankclip": Arm({"objective.name": "rankclip"}, [_weight(1.0), _weight(4.0)], seeds=5),
        "listnet": Arm({"objective.name": "listnet"}, _tries("listnet_ramp", _ramp(0.25), _ramp(1.0)), seeds=5),
        "clip_fixed_scale": Arm(
            {"objective.name": "clip", "optimizer.frozen": ("^logit_scale$",)}, _scales(7.0, 28.0), seeds=5
        ),
        "clip_double": Arm(double, like="clip"),
        "rank_distillation": Arm(
            {"objective.name": "rank_distillation"},
            _tries("distillation_weight", 1.0, 4.0),
            teacher="clip_double",
            seeds=5,
        ),
        "affinity_distillation": Arm(
            {"objective.name": "affinity_distillation"},
            _tries("distillation_fraction", 0.25, 0.75),
            teacher="clip_double",
        ),
        "softclip": Arm({"objective.name": "softclip"}, _tries("soft_fraction", 0.25, 0.75)),
        "superclip": Arm({"objective.name": "superclip"}, _tries("classification_weight", 0.5, 2.0)),
        "siglip": Arm({"objective.name": "siglip", "model.initial_logit_scale": 10.0}, _scales(5.0, 20.0)),
        "cyclip": Arm({"objective.name": "cyclip"}, _tries("cyclic", (0.125, 0.125), (0.5, 0.5))),
        "self_distillation": Arm(
            {"objective.name": "self_distillation"}, _tries("distillation_ramp", (0.0, 0.25, 1.0), (0.0, 0.75, 1.0))
        ),
        "rankclip_released": Arm(
            {"objective.name": "rankclip", "objective.variant": "released"}, [_weight(1.0), _weight(4.0)]
        ),
        "clip_same_text": Arm({"objective.name": "clip", "objective.same_text": True}, _scales(7.0, 28.0)),
        "fastclip_v3": Arm({"objective.name": "fastclip", "objective.version": "v3"}, _tries("rho", 3.25, 13.0)),
        "fastclip_v1": Arm({"objective.name": "fastclip", "objective.version": "v1"}, _scales(7.0, 28.0)),
        "fastclip_v2": Arm(
            {"objective.name": "fastclip", "objective.version": "v2"}, _tries("sample_temperature", 0.015, 0.06)
        ),
        "siglip_same_text": Arm(
            {"objective.name": "siglip", "model.initial_logit_scale": 10.0, "objective.same_text": True},
            _scales(5.0, 20.0),
        ),
        "ranking_alone": Arm({"objective.name": "ranking"}, _scales(7.0, 28.0)),
        # Variants, with the settings of a tuned arm otherwise.
        "cross_modal_alone": Arm({"objective.lambda_in": 0.0}, like="rankclip"),
        "in_modal_alone": Arm({"objective.lambda_cross": 0.0}, like="rankclip"),
        "ranking_scale_fixed": Arm({"objective.ranking_scale": "14.3"}, like="rankclip"),
        "ranking_scale_without_gradient": Arm({"objective.ranking_scale": "learned_without_gradient"}, like="rankclip"),
        "position_decay": Arm({"objective.position_decay": True}, like="rankclip"),
        "sublists_64": Arm({"objective.list_size": 64}, like="rankclip"),
        "clip_scale_50": Arm(high, like="clip"),
        "rankclip_scale_50": Arm(high, like="rankclip", against="clip_scale_50"),
        "released_scale_50": Arm(high, like="rankclip_released", against="clip_scale_50"),
        "clip_half": Arm(half, like="clip"),
        "rankclip_half": Arm(half, like="rankclip", against="clip_half"),
        "rankclip_double": Arm({**double, **gradients}, like="rankclip", against="clip_double"),
        **{_weighted(end): Arm(_weight(end), like="rankclip", seeds=2) for end in _WEIGHTS},
    }


def every_figure(column: str, examples: int) -> dict[str, Figure]:
    """Returns the charts by title.

    Args:
      column: the column of the report that they show.
      examples: seen in a run.
    """
    weights = {0.0: "clip"} | {end: _weighted(end) for end in _WEIGHTS}
    lengths = {
        name: {examples / 2: f"{name}_half", float(examples): name, 2.0 * examples: f"{name}_double"}
        for name in ("clip", "rankclip")
    }
    return {
        "Weight of the ranking terms": Figure(column, "weight at the end of the ramp", {"rankclip": weights}),
        "Amount of data": Figure(column, "examples seen", lengths),
    }


def _scales(*scales: float) -> list[Settings]:
    return [{"model.initial_logit_scale": scale} for scale in scales]


def _tries(name: str, *values: Any) -> Sequence[Settings]:
    return [{f"objective.{name}": value} for value in values]


def _ramp(end: float) -> tuple[float, float, float]:
    return (0.0, end, 2 / 3)


def _weight(end: float) -> Settings:
    return {"objective.ramp": _ramp(end)}


def _weighted(end: float) -> str:
    return f"rankclip_weight_{end:g}"
