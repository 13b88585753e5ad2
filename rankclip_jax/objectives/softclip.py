"""A variant of SoftCLIP (Gao et al., AAAI 2024): targets softened by similarity within a modality.

``p`` is a row's distribution over the other modality at scale ``s``, and ``q`` its distribution over its own modality
at a separate scale ``s_q``. ``-`` marks a distribution renormalised without the row's own column, which would otherwise
dominate the relations between negatives:

    L = (1 - f) L_clip + mean over both directions of ( f KL(q, p) + relation KL(q-, p-) )

No gradient flows through ``q``. The paper computes the in-modal similarity from an object detector's regions and tags;
this version uses the embeddings themselves, which needs no detector. ``s_q`` is fixed: at CLIP's learned scale, which
grows to 100, the targets would become one-hot.
"""

import dataclasses

import jax
import jax.numpy as jnp

from rankclip_jax.input_pipeline.setting import FRACTION, WEIGHT, setting
from rankclip_jax.objectives import clip
from rankclip_jax.objectives.objective import Metrics, ScaleChoice, chosen_scale
from rankclip_jax.objectives.pairwise import Scalars, Similarities


@dataclasses.dataclass(frozen=True)
class SoftTargets(clip.Clip):
    """CLIP's loss with a separate scale ``s_q`` for soft targets."""

    target_scale: str = setting(
        "14.3", "sharpness of soft targets: a number, `learned` or `learned_without_gradient`", ScaleChoice()
    )


@dataclasses.dataclass(frozen=True)
class SoftClip(SoftTargets):
    """CLIP's loss, second views included (see `clip`), mixed with the soft terms."""

    soft_fraction: float = setting(0.5, "fraction of the soft targets", FRACTION)
    relation_weight: float = setting(0.5, "weight of the term between negatives", WEIGHT)

    def row_loss(self, similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        """Returns each pair's weighted sum of the three terms."""
        scale = scalars["scale"]
        contrastive, metrics = clip.contrastive_rows(similarity, scale)
        target_scale = chosen_scale(self.target_scale, scale)
        soft = relation = jnp.zeros_like(contrastive)
        for own, other in (("image", "text"), ("text", "image")):
            target = jax.lax.stop_gradient(target_scale * similarity(own, own))
            logits = scale * similarity(own, other)
            soft += _divergence(target, logits, jnp.ones_like(similarity.own)) / 2
            relation += _divergence(target, logits, ~similarity.own) / 2
        fraction = self.soft_fraction
        total = (1 - fraction) * contrastive + fraction * soft + self.relation_weight * relation
        return total, metrics | {"soft": soft, "relation": relation}


def _divergence(target: jax.Array, logits: jax.Array, among: jax.Array) -> jax.Array:
    """Returns ``KL(softmax(target), softmax(logits))`` of each row, both over the columns in ``among``."""
    log_q = jax.nn.log_softmax(target, axis=-1, where=among)
    log_p = jax.nn.log_softmax(logits, axis=-1, where=among)
    difference = jnp.where(among, log_q, 0) - jnp.where(among, log_p, 0)
    return jnp.sum(jnp.where(among, jnp.exp(log_q), 0) * difference, axis=-1)
