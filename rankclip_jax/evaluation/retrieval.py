"""Retrieval: finding each image's own caption among all captions, and each caption's own image."""

import numpy as np

from rankclip_jax.evaluation.recall import recall_at


def retrieval(images: np.ndarray, texts: np.ndarray) -> dict[str, float]:
    """Recall at 1, 5 and 10, both ways, for unit rows ``[n, D]``."""
    own = np.arange(len(images))
    ks = (1, 5, 10)
    results: dict[str, float] = {}
    for name, recalls in (
        ("image_to_text", recall_at(images, texts, own, ks)),
        ("text_to_image", recall_at(texts, images, own, ks)),
    ):
        results |= {f"retrieval/{name}/recall_{k}": recall for k, recall in zip(ks, recalls, strict=True)}
    return results
