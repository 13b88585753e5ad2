"""Retrieval: finding each image's own captions among all captions, and each caption's own images."""

import numpy as np
from scipy.sparse import csr_array

from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.evaluation.recall import recall_at

_KS = (1, 5, 10)


def retrieval(
    images: np.ndarray, texts: np.ndarray, image_of_text: np.ndarray, sentence: np.ndarray | None = None
) -> list[Metric]:
    """Recall at 1, 5 and 10, both ways; an image is found by any of its captions, a caption by any of its images.

    Args:
      images: unit rows ``[n, D]``.
      texts: unit rows ``[m, D]``.
      image_of_text: int ``[m]``, the row of each text's image.
      sentence: int ``[m]``, the same number for texts that are one caption of several images; None: each text is a
        caption of its own, of one image.
    """
    if sentence is not None:
        _, first, which = np.unique(sentence, return_index=True, return_inverse=True)
        texts = texts[first]
    else:
        which = np.arange(len(texts))
    captions = csr_array((np.ones(len(which), bool), (image_of_text, which)), (len(images), len(texts)))
    both_ways = {
        "image_to_text": recall_at(images, texts, captions, _KS),
        "text_to_image": recall_at(texts, images, captions.T.tocsr(), _KS),
    }
    return [
        Metric(f"retrieval/{name}/recall_{k}", recall)
        for name, recalls in both_ways.items()
        for k, recall in zip(_KS, recalls, strict=True)
    ]
