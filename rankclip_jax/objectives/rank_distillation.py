"""Rank distillation: CLIP plus the list-wise loss of the student's scores in the order of a teacher's.

L = L_clip + w mean over teachers of (lambda_cross L_cross + lambda_in L_in)

The terms are those of RankCLIP (`ranking`), but the teacher's similarities give the order: ``L_cross`` of images with
texts and of texts with images, ``L_in`` of images with images and of texts with texts. Only the teacher's order counts,
not its scale, so teachers of any kind can be mixed. Lists are whole: over the global batch, in memory linear in its
size. On validation data, which have no teacher, the loss is the contrastive term.
"""

import dataclasses

import jax

from rankclip_jax.input_pipeline.setting import WEIGHT, setting
from rankclip_jax.objectives import clip, ranking, teacher
from rankclip_jax.objectives.objective import Metrics, chosen_scale
from rankclip_jax.objectives.pairwise import Scalars, Similarities
from rankclip_jax.objectives.ranking import List


@dataclasses.dataclass(frozen=True)
class RankDistillation(teacher.TeacherOptions, ranking.RankingOptions, clip.Clip):
    """CLIP's loss, second views included (see `clip`), plus the list-wise loss of the teachers' orders."""

    distillation_weight: float = setting(2.0, "weight of the teachers' orders", WEIGHT)

    def row_loss(self, similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        """Returns each pair's sum of the three weighted terms."""
        contrastive, metrics = clip.contrastive_rows(similarity, scalars["scale"])
        pairs = teacher.views_in(similarity)
        if not pairs:
            return contrastive, metrics
        cross_modal: list[List] = []
        in_modal: list[List] = []
        for image, text in pairs:
            cross_modal += [(("image", "text"), (image, text)), (("text", "image"), (text, image))]
            in_modal += [(("image", "image"), (image, image)), (("text", "text"), (text, text))]
        scale = chosen_scale(self.ranking_scale, scalars["scale"])
        options = (self.variant, self.position_decay, self.list_size or None)
        losses = ranking.list_rows(similarity, scale, (*cross_modal, *in_modal), *options) / len(pairs)
        cross, within = losses[: len(cross_modal)].sum(axis=0), losses[len(cross_modal) :].sum(axis=0)
        total = self.lambda_cross * cross + self.lambda_in * within
        return contrastive + self.distillation_weight * total, metrics | {"cross_modal": cross, "in_modal": within}
