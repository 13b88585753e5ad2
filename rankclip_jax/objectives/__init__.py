"""The registry of training objectives: each is one file with its formula, and one row of this table."""

from typing import Any

import jax
from ml_collections import ConfigDict

from rankclip_jax.input_pipeline.registry import Registry
from rankclip_jax.models import clip as models
from rankclip_jax.objectives import head
from rankclip_jax.objectives.affinity_distillation import AffinityDistillation
from rankclip_jax.objectives.clip import Clip
from rankclip_jax.objectives.cyclip import CyClip
from rankclip_jax.objectives.fastclip import FastClip
from rankclip_jax.objectives.listnet import ListNet
from rankclip_jax.objectives.objective import LossResult, Metrics, Objective, Step
from rankclip_jax.objectives.pairwise import PairwiseObjective
from rankclip_jax.objectives.rank_distillation import RankDistillation
from rankclip_jax.objectives.rankclip import RankClip
from rankclip_jax.objectives.ranking import consistency, listmle
from rankclip_jax.objectives.ranking_alone import RankingAlone
from rankclip_jax.objectives.self_distillation import SelfDistillation
from rankclip_jax.objectives.siglip import SigLip
from rankclip_jax.objectives.softclip import SoftClip
from rankclip_jax.objectives.superclip import SuperClip

__all__ = [
    "OBJECTIVES",
    "LossResult",
    "Metrics",
    "Objective",
    "PairwiseObjective",
    "Step",
    "abstract_variables",
    "build",
    "consistency",
    "listmle",
]

OBJECTIVES: Registry[Objective] = Registry(
    "objective.name",
    Objective,
    {
        "clip": Clip,
        "siglip": SigLip,
        "cyclip": CyClip,
        "softclip": SoftClip,
        "self_distillation": SelfDistillation,
        "rankclip": RankClip,
        "listnet": ListNet,
        "fastclip": FastClip,
        "superclip": SuperClip,
        "ranking": RankingAlone,
        "rank_distillation": RankDistillation,
        "affinity_distillation": AffinityDistillation,
    },
)


def build(config: ConfigDict) -> Objective:
    """Builds the objective that the settings under ``config.objective`` describe.

    Raises:
      UserError: the name is unknown, or the objective does not support these values.
    """
    return OBJECTIVES[config.name].from_config(config)


def abstract_variables(objective: Objective | None, model: models.Clip) -> models.Variables:
    """Returns the shapes and dtypes of a model's variables with what an objective learns beside them."""
    variables = models.abstract_variables(model)
    if objective is None:
        return variables
    own: dict[str, Any] = dict(objective.initial_parameters())
    drawn = jax.eval_shape(lambda shapes: head.init(objective, model, shapes, jax.random.key(0)), variables)
    if drawn is not None:
        own[head.HEAD] = drawn
    return variables | {"params": variables["params"] | own}
