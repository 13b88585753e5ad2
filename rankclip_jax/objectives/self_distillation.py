"""After progressive self-distillation (Andonian et al., CVPR 2022): soft targets from the model's own logits.

An image's target over texts mixes its own text with what the texts say of it, the other direction's similarities at a
scale ``s_q`` of their own:

    target(i) = (1 - a(progress)) onehot(i) + a(progress) softmax_j(s_q t_i x_j)
    L = mean over both directions of CE(target, softmax_j(s x_i t_j))

The paper draws at random which pairs of a batch get soft targets, a growing share ``a``; cross-entropy is linear in the
target, so this mixture is the mean over such draws, without their noise. No gradient flows through targets. ``s_q`` is
fixed: at CLIP's learned scale, which goes to 100, the targets would become one-hot.
"""

import dataclasses

import jax
import jax.numpy as jnp

from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import clip, objective, schedules
from rankclip_jax.objectives.objective import Metrics, Step, check_scale, chosen_scale
from rankclip_jax.objectives.pairwise import Scalars, Similarities, mean_over_rows


@dataclasses.dataclass(frozen=True)
class Options(objective.Options):
    """The ramp of ``a`` (from, to, reached at this share of training) and ``s_q`` (see `objective.chosen_scale`)."""

    distillation_ramp: tuple[float, float, float] = (0.0, 0.5, 1.0)
    target_scale: str = "14.3"

    def __post_init__(self) -> None:
        check_scale("config.objective.target_scale", self.target_scale)


def loss(outputs: Outputs, options: Options, step: Step) -> tuple[jax.Array, Metrics]:
    """CLIP's loss, second views included (see `clip`), with targets that follow the model's own beliefs ever more."""
    share = schedules.ramp(step.progress, *options.distillation_ramp)

    def row_loss(similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        scale = scalars["scale"]
        target_scale = chosen_scale(options.target_scale, scale)
        contrastive, metrics = clip.contrastive_rows(similarity, scale)
        soft = jnp.zeros_like(contrastive)
        for row, column in (("image", "text"), ("text", "image")):
            target = jax.nn.softmax(jax.lax.stop_gradient(target_scale * similarity(column, row)), axis=-1)
            log_p = jax.nn.log_softmax(scale * similarity(row, column), axis=-1)
            soft -= jnp.sum(target * log_p, axis=-1) / 2
        total = (1 - scalars["share"]) * contrastive + scalars["share"] * soft
        return total, metrics | {"soft": soft}

    scalars = {**outputs.scalars, "share": share}
    total, metrics = mean_over_rows(row_loss, outputs.embeddings, scalars, step, options)
    return total, metrics | {"soft_fraction": share}
