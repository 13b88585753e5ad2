"""The arms of the shipped studies: the built-in objectives, tuned, and variants of the most important ones.

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
    high = {"model.initial_logit_scale": 100.0, **gradients}
    half, double = {setting: length // 2}, {setting: 2 * length}
    siglip = {"objective.name": "siglip", "model.initial_logit_scale": 10.0}
    teacher = "clip_double"
    return {
        "clip": Arm({"objective.name": "clip"}, _tries("optimizer.weight_decay", 0.05, 0.2), seeds=5),
        "rankclip": Arm({"objective.name": "rankclip"}, [_weight(1.0), _weight(4.0)], seeds=5),
        "listnet": _arm("listnet", _tries("objective.listnet_ramp", _ramp(0.25), _ramp(1.0)), seeds=5),
        "clip_double": Arm(double, like="clip"),
        "rankclip_double": Arm({**double, **gradients}, like="rankclip", against="clip_double"),
        "rank_distillation": _arm(
            "rank_distillation", _tries("objective.distillation_weight", 1.0, 4.0), teacher=teacher, seeds=5
        ),
        "affinity_distillation": _arm(
            "affinity_distillation", _tries("objective.distillation_fraction", 0.25, 0.75), teacher=teacher
        ),
        "superclip": _arm("superclip", _tries("objective.classification_weight", 0.5, 2.0)),
        "softclip": _arm("softclip", _tries("objective.soft_fraction", 0.25, 0.75)),
        "siglip": Arm(siglip, _tries("optimizer.weight_decay", 0.05, 0.2)),
        "cyclip": _arm("cyclip", _tries("objective.cyclic", (0.125, 0.125), (0.5, 0.5))),
        "self_distillation": _arm(
            "self_distillation", _tries("objective.distillation_ramp", (0.0, 0.25, 1.0), (0.0, 0.75, 1.0))
        ),
        "fastclip": _arm("fastclip", _tries("objective.rho", 3.25, 13.0)),
        # Variants, with the settings of a tuned arm otherwise.
        "clip_fixed_scale": Arm({"optimizer.frozen": ("^logit_scale$",)}, like="clip"),
        "fastclip_v1": Arm({"objective.version": "v1"}, like="fastclip"),
        "fastclip_v2": Arm({"objective.version": "v2"}, like="fastclip"),
        "clip_same_text": Arm({"objective.same_text": True}, like="clip"),
        "siglip_same_text": Arm({"objective.same_text": True}, like="siglip"),
        "rankclip_released": Arm({"objective.variant": "released"}, like="rankclip"),
        "ranking_alone": Arm({"objective.name": "ranking"}, like="rankclip"),
        "cross_modal_alone": Arm({"objective.lambda_in": 0.0}, like="rankclip"),
        "in_modal_alone": Arm({"objective.lambda_cross": 0.0}, like="rankclip"),
        "ranking_scale_fixed": Arm({"objective.ranking_scale": "14.3"}, like="rankclip"),
        "ranking_scale_without_gradient": Arm({"objective.ranking_scale": "learned_without_gradient"}, like="rankclip"),
        "position_decay": Arm({"objective.position_decay": True}, like="rankclip"),
        "sublists_64": Arm({"objective.list_size": 64}, like="rankclip"),
        "clip_scale_100": Arm(high, like="clip"),
        "rankclip_scale_100": Arm(high, like="rankclip", against="clip_scale_100"),
        "released_scale_100": Arm({**high, "objective.variant": "released"}, like="rankclip", against="clip_scale_100"),
        "clip_half": Arm(half, like="clip"),
        "rankclip_half": Arm(half, like="rankclip", against="clip_half"),
        **{_weighted(end): Arm(_weight(end), like="rankclip", seeds=2) for end in _WEIGHTS},
    }


def shared_stages(*rates: float) -> list[list[Settings]]:
    """Returns what every arm tries: learning rates, and then twice and four times CLIP's initial scale."""
    return [_tries("optimizer.learning_rate", *rates), _tries("model.initial_logit_scale", 28.0, 56.0)]


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


def _arm(name: str, tries: Sequence[Settings], **more: Any) -> Arm:
    return Arm({"objective.name": name}, tries, **more)


def _tries(name: str, *values: Any) -> list[Settings]:
    return [{name: value} for value in values]


def _ramp(end: float) -> tuple[float, float, float]:
    return (0.0, end, 2 / 3)


def _weight(end: float) -> Settings:
    return {"objective.ramp": _ramp(end)}


def _weighted(end: float) -> str:
    return f"rankclip_weight_{end:g}"
