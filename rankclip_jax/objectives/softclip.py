"""SoftCLIP (Gao et al., AAAI 2024): targets softened by similarity within a modality.

With ``p`` the distribution of a row over the other modality and ``q`` that over its own, both at scale ``s``, and ``-``
for a distribution renormalised without the row's own column, so that the negatives' relations are not drowned by it:

    L = (1 - share) L_clip + mean over both directions of ( share KL(q, p) + relation KL(q-, p-) )

The paper takes the in-modal similarity from an object detector's regions and tags; here it is that of the embeddings
themselves, which needs no detector. No gradient flows through ``q``.
"""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import batch, clip
from rankclip_jax.objectives.pairwise import Metrics, Scalars, Similarities


def loss(
    outputs: Outputs, *, progress: jax.Array, key: jax.Array, config: ConfigDict, mesh: Mesh | None
) -> tuple[jax.Array, Metrics]:
    """CLIP's loss with soft targets; ``config.soft_share`` and ``config.relation_weight`` weigh the terms."""
    del progress

    def row_loss(similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        scale = scalars["scale"]
        contrastive = clip.contrastive_rows(similarity, scale)
        soft = relation = jnp.zeros_like(contrastive)
        for own, other in (("image", "text"), ("text", "image")):
            target = jax.lax.stop_gradient(scale * similarity(own, own))
            logits = scale * similarity(own, other)
            soft += _divergence(target, logits, jnp.ones_like(similarity.own)) / 2
            relation += _divergence(target, logits, ~similarity.own) / 2
        share = config.soft_share
        total = (1 - share) * contrastive + share * soft + config.relation_weight * relation
        return total, {"contrastive": contrastive, "soft": soft, "relation": relation}

    return batch.mean_loss(row_loss, outputs, key=key, config=config, mesh=mesh)


def _divergence(target: jax.Array, logits: jax.Array, among: jax.Array) -> jax.Array:
    """``KL(softmax(target), softmax(logits))`` of each row, both over the columns in ``among``."""
    log_q = jax.nn.log_softmax(target, axis=-1, where=among)
    log_p = jax.nn.log_softmax(logits, axis=-1, where=among)
    difference = jnp.where(among, log_q, 0) - jnp.where(among, log_p, 0)
    return jnp.sum(jnp.where(among, jnp.exp(log_q), 0) * difference, axis=-1)
