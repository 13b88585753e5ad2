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

from rankclip_jax.input_pipeline.setting import FRACTION, Each, setting
from rankclip_jax.objectives import clip, schedules
from rankclip_jax.objectives.objective import Metrics, Step, chosen_scale
from rankclip_jax.objectives.pairwise import Scalars, Similarities
from rankclip_jax.objectives.softclip import SoftTargets


@dataclasses.dataclass(frozen=True)
class SelfDistillation(SoftTargets):
    """CLIP's loss, second views included (see `clip`), with targets that follow the model's own beliefs ever more."""

    distillation_ramp: tuple[float, float, float] = setting(
        (0.0, 0.5, 1.0),
        "fraction of soft targets: from, to, reached at this fraction of training",
        Each(FRACTION, FRACTION, FRACTION),
    )

    def scheduled(self, step: Step) -> Scalars:
        """The fraction ``a`` of soft targets."""
        return {"soft_fraction": schedules.ramp(step.progress, *self.distillation_ramp)}

    def row_loss(self, similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        """Each pair's part of both terms."""
        scale = scalars["scale"]
        target_scale = chosen_scale(self.target_scale, scale)
        contrastive, metrics = clip.contrastive_rows(similarity, scale)
        soft = jnp.zeros_like(contrastive)
        for row, column in (("image", "text"), ("text", "image")):
            target = jax.nn.softmax(jax.lax.stop_gradient(target_scale * similarity(column, row)), axis=-1)
            log_p = jax.nn.log_softmax(scale * similarity(row, column), axis=-1)
            soft -= jnp.sum(target * log_p, axis=-1) / 2
        fraction = scalars["soft_fraction"]
        return (1 - fraction) * contrastive + fraction * soft, metrics | {"soft": soft}
