"""Retrieval: finding each image's own captions among all captions, and each caption's own image."""

import numpy as np

from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.evaluation.recall import recall_at

_KS = (1, 5, 10)


def retrieval(images: np.ndarray, texts: np.ndarray, image_of_text: np.ndarray) -> list[Metric]:
    """Recall at 1, 5 and 10, both ways; an image is found by any of its captions.

    Args:
      images: unit rows ``[n, D]``.
      texts: unit rows ``[m, D]``.
      image_of_text: int ``[m]``, the row of each text's image.
    """
    own = np.arange(len(images))
    both_ways = {
        "image_to_text": recall_at(images, texts, own, _KS, image_of_text),
        "text_to_image": recall_at(texts, images, image_of_text, _KS),
    }
    return [
        Metric(f"retrieval/{name}/recall_{k}", recall)
        for name, recalls in both_ways.items()
        for k, recall in zip(_KS, recalls, strict=True)
    ]
