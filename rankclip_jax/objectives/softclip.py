"""After SoftCLIP (Gao et al., AAAI 2024): targets softened by similarity within a modality.

With ``p`` the distribution of a row over the other modality at scale ``s``, ``q`` that over its own at a scale ``s_q``
of its own, and ``-`` for a distribution renormalised without the row's own column, so that the negatives' relations are
not drowned by it:

    L = (1 - share) L_clip + mean over both directions of ( share KL(q, p) + relation KL(q-, p-) )

No gradient flows through ``q``. The paper takes the in-modal similarity from an object detector's regions and tags;
here it is that of the embeddings themselves, which needs no detector. ``s_q`` is fixed: at CLIP's learned scale, which
goes to 100, the targets would become one-hot.
"""

import dataclasses

import jax
import jax.numpy as jnp

from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import clip, objective
from rankclip_jax.objectives.objective import Metrics, Step, check_scale, chosen_scale
from rankclip_jax.objectives.pairwise import Scalars, Similarities, mean_over_rows


@dataclasses.dataclass(frozen=True)
class Options(objective.Options):
    """The weights of the terms, and ``s_q`` (see `objective.chosen_scale`)."""

    soft_fraction: float = 0.5
    relation_weight: float = 0.5
    target_scale: str = "14.3"

    def __post_init__(self) -> None:
        check_scale("config.objective.target_scale", self.target_scale)


def loss(outputs: Outputs, options: Options, step: Step) -> tuple[jax.Array, Metrics]:
    """CLIP's loss, second views included (see `clip`), mixed with the soft terms."""

    def row_loss(similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        scale = scalars["scale"]
        contrastive, metrics = clip.contrastive_rows(similarity, scale)
        target_scale = chosen_scale(options.target_scale, scale)
        soft = relation = jnp.zeros_like(contrastive)
        for own, other in (("image", "text"), ("text", "image")):
            target = jax.lax.stop_gradient(target_scale * similarity(own, own))
            logits = scale * similarity(own, other)
            soft += _divergence(target, logits, jnp.ones_like(similarity.own)) / 2
            relation += _divergence(target, logits, ~similarity.own) / 2
        share = options.soft_fraction
        total = (1 - share) * contrastive + share * soft + options.relation_weight * relation
        return total, metrics | {"soft": soft, "relation": relation}

    return mean_over_rows(row_loss, outputs.embeddings, outputs.scalars, step, options)


def _divergence(target: jax.Array, logits: jax.Array, among: jax.Array) -> jax.Array:
    """``KL(softmax(target), softmax(logits))`` of each row, both over the columns in ``among``."""
    log_q = jax.nn.log_softmax(target, axis=-1, where=among)
    log_p = jax.nn.log_softmax(logits, axis=-1, where=among)
    difference = jnp.where(among, log_q, 0) - jnp.where(among, log_p, 0)
    return jnp.sum(jnp.where(among, jnp.exp(log_q), 0) * difference, axis=-1)
