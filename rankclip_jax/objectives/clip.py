"""CLIP's contrastive loss (Radford et al., 2021): each image tells its text from all others, and the reverse.

L = (CE(s x t', diagonal) + CE(s t x', diagonal)) / 2
"""

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import pairwise
from rankclip_jax.objectives.pairwise import Metrics, Scalars, Similarities


def loss(
    outputs: Outputs, *, progress: jax.Array, key: jax.Array, config: ConfigDict, mesh: Mesh | None
) -> tuple[jax.Array, Metrics]:
    """The contrastive loss over the global batch; see `rankclip_jax.objectives` for the arguments."""
    del progress, key, config

    def row_loss(similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        return contrastive_rows(similarity, scalars["scale"]), {}

    embeddings = {"image": outputs["image_embedding"], "text": outputs["text_embedding"]}
    total, _ = pairwise.mean_over_rows(row_loss, embeddings, {"scale": outputs["logit_scale"]}, mesh=mesh)
    return total, {"contrastive": total}


def contrastive_rows(similarity: Similarities, scale: jax.Array) -> jax.Array:
    """Each pair's share: ``[chunk]``."""
    own = similarity.paired("image", "text")
    image_to_text = _cross_entropy(scale * (similarity("image", "text") - own[:, None]), similarity.own)
    text_to_image = _cross_entropy(scale * (similarity("text", "image") - own[:, None]), similarity.own)
    return (image_to_text + text_to_image) / 2


def _cross_entropy(margin: jax.Array, own: jax.Array) -> jax.Array:
    """``-log softmax`` at the own column, of logits given relative to it; exact however small it is."""
    return jax.nn.softplus(jax.nn.logsumexp(margin, axis=-1, where=~own))
