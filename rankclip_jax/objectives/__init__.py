"""The training objectives, by name: each is one file with its formula, and one row of this table.

What a file provides is said in `objective.Objective`.
"""

from rankclip_jax.objectives import clip, cyclip, rankclip, ranking_alone, self_distillation, siglip, softclip
from rankclip_jax.objectives.objective import Objective, Options, Step, options_of, parameters_of, state_of
from rankclip_jax.objectives.ranking import consistency, listmle

__all__ = [
    "OBJECTIVES",
    "Objective",
    "Options",
    "Step",
    "consistency",
    "listmle",
    "options_of",
    "parameters_of",
    "state_of",
]

OBJECTIVES: dict[str, Objective] = {
    "clip": clip,
    "siglip": siglip,
    "cyclip": cyclip,
    "softclip": softclip,
    "self_distillation": self_distillation,
    "rankclip": rankclip,
    "ranking": ranking_alone,
}
