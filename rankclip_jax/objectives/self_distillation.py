"""Progressive self-distillation (Andonian et al., CVPR 2022): soft targets from the model's own logits.

An image's target over texts mixes its own text with what the texts say of it, the other direction's logits:

    target(i) = (1 - a(progress)) onehot(i) + a(progress) softmax_j(s t_i x_j)
    L = mean over both directions of CE(target, softmax_j(s x_i t_j))

The paper draws at random which pairs of a batch get soft targets, a growing share ``a``; cross-entropy is linear in the
target, so this mixture is the mean over such draws, without their noise. No gradient flows through targets.
"""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives import batch, clip, schedules
from rankclip_jax.objectives.pairwise import Metrics, Scalars, Similarities


def loss(
    outputs: Outputs, *, progress: jax.Array, key: jax.Array, config: ConfigDict, mesh: Mesh | None
) -> tuple[jax.Array, Metrics]:
    """CLIP's loss with targets that follow the model's own beliefs more and more, by ``config.distillation_ramp``."""
    share = schedules.ramp(progress, *config.distillation_ramp)

    def row_loss(similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        scale = scalars["scale"]
        contrastive = clip.contrastive_rows(similarity, scale)
        image_to_text, text_to_image = scale * similarity("image", "text"), scale * similarity("text", "image")
        soft = (_cross_entropy(text_to_image, image_to_text) + _cross_entropy(image_to_text, text_to_image)) / 2
        total = (1 - scalars["share"]) * contrastive + scalars["share"] * soft
        return total, {"contrastive": contrastive, "soft": soft}

    scalars = {"share": share}
    total, metrics = batch.mean_loss(row_loss, outputs, key=key, config=config, mesh=mesh, scalars=scalars)
    return total, metrics | {"soft_share": share}


def _cross_entropy(teacher: jax.Array, logits: jax.Array) -> jax.Array:
    target = jax.nn.softmax(jax.lax.stop_gradient(teacher), axis=-1)
    return -jnp.sum(target * jax.nn.log_softmax(logits, axis=-1), axis=-1)
