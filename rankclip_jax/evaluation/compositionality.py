"""Compositionality, in SugarCrepe's form: is an image closer to what describes it than to the same words put wrong?"""

import numpy as np

from rankclip_jax.evaluation.metric import Metric


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
        )
    ]
