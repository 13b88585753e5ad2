"""Compositionality, in SugarCrepe's form: is an image closer to what describes it than to the same words put wrong?"""

import dataclasses

import numpy as np

from rankclip_jax.evaluation.evaluation import Data, Evaluation, ModelUnderTest
from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.source import captions


@dataclasses.dataclass(frozen=True)
class Compositionality(Evaluation):
    """Is the right caption closer than the wrong one?"""

    public_name = "image_caption_selection"

    def check(self, data: Data) -> None:
        """Needs two captions an image; the first and the last record are looked at."""
        if any(len(captions(data.source[number])) != 2 for number in (0, len(data.source) - 1)):
            raise UserError("expected two captions an image, the right one and a wrong one, as sugar_crepe has.")

    def evaluate(self, model: ModelUnderTest, data: Data) -> list[Metric]:
        """See `compositionality`."""
        embedded = model.embed(data.source)
        if (np.bincount(embedded.image_of_text) != 2).any():
            raise UserError("expected two captions of every image, the right one and a wrong one.")
        texts = embedded.text.reshape(len(embedded.image), 2, -1)
        return compositionality(embedded.image, texts, len(embedded.unreadable))


def compositionality(images: np.ndarray, texts: np.ndarray, unreadable: int = 0) -> list[Metric]:
    """The share of images for which the right caption is the closer one; one that is as close counts half.

    Args:
      images: unit rows ``[n, D]``.
      texts: unit rows ``[n, 2, D]``: the right and the wrong caption of each.
      unreadable: how many more images could not be read, each of which counts as wrong.
    """
    right, wrong = (np.einsum("nd,nd->n", images, texts[:, place]) for place in (0, 1))
    return [
        Metric(
            "compositionality/accuracy",
            float(np.sum((right > wrong) + 0.5 * (right == wrong)) / (len(images) + unreadable)),
            public_name="acc",
        )
    ]
