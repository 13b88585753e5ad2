"""Retrieval: finding each image's own captions among all captions, and each caption's own images."""

import numpy as np
from scipy.sparse import csr_array

from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.evaluation.recall import hits_at

_KS = (1, 5, 10)


def retrieval(
    images: np.ndarray,
    texts: np.ndarray,
    image_of_text: np.ndarray,
    sentence: np.ndarray | None = None,
    unreadable: int = 0,
) -> list[Metric]:
    """Recall at 1, 5 and 10, both ways, that at 1 by guessing, and how many images and captions there are.

    An image is found by any of its captions, a caption by any of its images.

    Args:
      images: unit rows ``[n, D]``.
      texts: unit rows ``[m, D]``.
      image_of_text: int ``[m]``, the row of each text's image; -1: it could not be read.
      sentence: int ``[m]``, the same number for texts that are one caption of several images; None: each text is a
        caption of its own, of one image.
      unreadable: how many more images could not be read, each of which finds nothing and is not found.
    """
    if sentence is not None:
        _, first, which = np.unique(sentence, return_index=True, return_inverse=True)
        texts = texts[first]
    else:
        which = np.arange(len(texts))
    read, count = image_of_text >= 0, len(images) + unreadable
    captions = csr_array((np.ones(read.sum(), bool), (image_of_text[read], which[read])), (len(images), len(texts)))
    captions.sum_duplicates()
    both_ways = {
        "image_to_text": hits_at(images, texts, captions, _KS).sum(axis=0) / count,
        "text_to_image": hits_at(texts, images, captions.T.tocsr(), _KS).mean(axis=0),
    }
    pairs = captions.count_nonzero()  # of which a guess, uniform over the candidates, is one
    return [
        *(
            Metric(f"retrieval/{name}/recall_{k}", float(recall))
            for name, recalls in both_ways.items()
            for k, recall in zip(_KS, recalls, strict=True)
        ),
        Metric("retrieval/image_to_text/chance", pairs / (count * len(texts))),
        Metric("retrieval/text_to_image/chance", pairs / (count * len(texts))),
        Metric("retrieval/images", count, "count"),
        Metric("retrieval/captions", len(texts), "count"),
    ]
