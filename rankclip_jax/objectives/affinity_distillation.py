"""Affinity distillation of MobileCLIP (Vasu et al., CVPR 2024, arXiv 2311.17049).

``S(A)`` is the softmax of a row of logits: the teacher's at its own scale, the student's at the learned scale ``s``.

L = (1 - f) L_clip + f mean over teachers of ( KL(S(teacher x t'), S(s x t')) + KL(S(teacher t x'), S(s t x')) ) / 2

No gradient flows to the teacher. On validation data, which have no teacher, the loss is the contrastive term.
"""

import dataclasses

import jax
import jax.numpy as jnp

from rankclip_jax.input_pipeline.setting import FRACTION, setting
from rankclip_jax.objectives import clip, teacher
from rankclip_jax.objectives.objective import Metrics
from rankclip_jax.objectives.pairwise import Scalars, Similarities


@dataclasses.dataclass(frozen=True)
class AffinityDistillation(teacher.TeacherOptions, clip.Clip):
    """CLIP's loss, second views included (see `clip`), mixed with the divergence from the teachers' similarities."""

    distillation_fraction: float = setting(0.5, "fraction of the divergence from the teachers", FRACTION)

    def row_loss(self, similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        """Returns each pair's weighted mean of both terms."""
        contrastive, metrics = clip.contrastive_rows(similarity, scalars["scale"])
        pairs = teacher.views_in(similarity)
        if not pairs:
            return contrastive, metrics
        divergence = jnp.zeros_like(contrastive)
        for image, text in pairs:
            for student, taught in ((("image", "text"), (image, text)), (("text", "image"), (text, image))):
                target = jax.nn.log_softmax(jax.lax.stop_gradient(similarity(*taught)), axis=-1)
                log_p = jax.nn.log_softmax(scalars["scale"] * similarity(*student), axis=-1)
                divergence += jnp.sum(jnp.exp(target) * (target - log_p), axis=-1) / 2 / len(pairs)
        fraction = self.distillation_fraction
        return (1 - fraction) * contrastive + fraction * divergence, metrics | {"divergence": divergence}
