"""Compositionality, as in SugarCrepe: whether an image is closer to its caption than to a hard negative caption."""

import dataclasses

import numpy as np

from rankclip_jax.evaluation.evaluation import Data, Evaluation, ModelUnderTest
from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.source import captions


@dataclasses.dataclass(frozen=True)
class Compositionality(Evaluation):
    """Measures how often an image is closer to its correct caption than to the wrong one."""

    public_name = "image_caption_selection"

    def check(self, data: Data) -> None:
        """Raises UserError unless the first and the last image have two captions."""
        if any(len(captions(data.source[number])) != 2 for number in (0, len(data.source) - 1)):
            raise UserError(
                "each image needs exactly two captions, a correct and a wrong one. Use a dataset in the form of "
                "sugar_crepe."
            )

    def evaluate(self, model: ModelUnderTest, data: Data) -> list[Metric]:
        """Returns the metrics of `compositionality`."""
        embedded = model.embed(data.source)
        counts = np.bincount(embedded.image_of_text)
        if (counts != 2).any():
            raise UserError(
                "each image needs exactly two captions, a correct and a wrong one; found "
                f"{int((counts != 2).sum())} images with another number. Fix or remove them."
            )
        texts = embedded.text.reshape(len(embedded.image), 2, -1)
        return compositionality(embedded.image, texts, len(embedded.unreadable))


def compositionality(images: np.ndarray, texts: np.ndarray, unreadable: int = 0) -> list[Metric]:
    """Returns the fraction of images that are closer to the correct caption; ties count as one half.

    Args:
      images: unit rows ``[n, D]``.
      texts: unit rows ``[n, 2, D]``: the correct and the wrong caption of each.
      unreadable: number of additional, unreadable images, each of which counts as wrong.
    """
    right, wrong = (np.einsum("nd,nd->n", images, texts[:, caption]) for caption in (0, 1))
    return [
        Metric(
            "compositionality/accuracy",
            float(np.sum((right > wrong) + 0.5 * (right == wrong)) / (len(images) + unreadable)),
            public_name="acc",
        )
    ]
