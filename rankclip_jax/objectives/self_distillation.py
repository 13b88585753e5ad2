"""A variant of progressive self-distillation (Andonian et al., CVPR 2022): soft targets from the model's own logits.

An image's target over texts mixes its own text with a softmax over the other direction's similarities, at a separate
scale ``s_q``:

    target(i) = (1 - a(progress)) onehot(i) + a(progress) softmax_j(s_q t_i x_j)
    L = mean over both directions of CE(target, softmax_j(s x_i t_j))

The paper samples which pairs of a batch get soft targets, a growing fraction ``a``. Cross-entropy is linear in the
target, so this mixture is the expectation over such samples, without their noise. No gradient flows through targets.
``s_q`` is fixed: at CLIP's learned scale, which grows to 100, the targets would become one-hot.
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
    """CLIP's loss, second views included (see `clip`), with a growing fraction of soft targets from the model."""

    distillation_ramp: tuple[float, float, float] = setting(
        (0.0, 0.5, 1.0),
        "fraction of soft targets: start, end, fraction of training at which the end is reached",
        Each(FRACTION, FRACTION, FRACTION),
    )

    def scheduled(self, step: Step) -> Scalars:
        """Returns the fraction ``a`` of soft targets."""
        return {"soft_fraction": schedules.ramp(step.progress, *self.distillation_ramp)}

    def row_loss(self, similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        """Returns each pair's weighted sum of both terms."""
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
