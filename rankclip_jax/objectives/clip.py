"""CLIP's contrastive loss (Radford et al., 2021): each image is classified among all texts, and each text among images.

L = (CE(s x t', diagonal) + CE(s t x', diagonal)) / 2

Where a batch holds augmented views ``x_a`` and ``t_a`` too (``config.objective.second_view``), each image is also
contrasted with the images' augmented views, and each text with the texts':

L = (L_clip + L_second) / 2,  L_second = (CE(s x x_a', diagonal) + CE(s t t_a', diagonal)) / 2

as CyCLIP and RankCLIP's release do with ``--inmodal``. All objectives with a contrastive term share this one; their
additional terms are added to this average, not averaged with it.

With ``config.objective.same_text``, each column with the row's caption is a positive too, and the cross-entropy is the
mean over all positives, as in UniCL (Yang et al., CVPR 2022).
"""

import dataclasses

import jax

from rankclip_jax.input_pipeline.setting import setting
from rankclip_jax.models.clip import Outputs
from rankclip_jax.objectives.objective import Metrics, Step
from rankclip_jax.objectives.pairwise import CAPTION, PairwiseObjective, Scalars, Similarities, Values


@dataclasses.dataclass(frozen=True)
class Clip(PairwiseObjective):
    """The contrastive loss over the global batch."""

    second_view: bool = setting(False, "contrast each image and text with an augmented view of itself too")
    same_text: bool = setting(False, "count images and texts with the same caption as positives of each other")

    @property
    def needs_captions(self) -> bool:
        """Whether ``config.objective.same_text`` is set."""
        return self.same_text

    def values(self, outputs: Outputs, step: Step) -> Values:
        """Returns the captions' digests with ``same_text``."""
        return {CAPTION: outputs.captions} if self.same_text and outputs.captions is not None else {}

    @property
    def needs_second_views(self) -> bool:
        """Whether ``config.objective.second_view`` is set."""
        return self.second_view

    def row_loss(self, similarity: Similarities, scalars: Scalars) -> tuple[jax.Array, Metrics]:
        """Returns each pair's contrastive loss."""
        return contrastive_rows(similarity, scalars["scale"])


def contrastive_rows(similarity: Similarities, scale: jax.Array) -> tuple[jax.Array, Metrics]:
    """Returns each pair's contrastive term, second views included, and its components as metrics: ``[chunk]``."""
    texts = similarity.cross_entropy("image", "text", scale)
    contrastive = (texts + similarity.cross_entropy("text", "image", scale)) / 2
    return with_second_view(contrastive, similarity, scale, "contrastive")


def with_second_view(
    term: jax.Array, similarity: Similarities, scale: jax.Array, name: str
) -> tuple[jax.Array, Metrics]:
    """Returns the mean of a contrastive term and ``L_second`` where there are second views, and both as metrics."""
    if "image_augmented" not in similarity.views:
        return term, {name: term}
    images = similarity.cross_entropy("image", "image_augmented", scale)
    texts = similarity.cross_entropy("text", "text_augmented", scale)
    second_view = (images + texts) / 2
    return (term + second_view) / 2, {name: term, "second_view": second_view}
