"""Zero-shot classification: an image's class is the one whose described name is most similar (Radford et al., 2021)."""

from collections.abc import Callable, Sequence

import numpy as np

from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.evaluation.recall import recall_at

_KS = (1, 3, 5)


def class_embeddings(
    encode_texts: Callable[[list[str]], np.ndarray], names: Sequence[str], templates: Sequence[str]
) -> np.ndarray:
    """The normalised mean, over templates, of each class's description: ``[classes, D]``."""
    prompts = [template.format(name) for name in names for template in templates]
    mean = encode_texts(prompts).reshape(len(names), len(templates), -1).mean(axis=1)
    return mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), np.finfo(np.float32).tiny)


def accuracy(images: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> list[Metric]:
    """Top-1, top-3 and top-5 accuracy, and that of guessing.

    Args:
      images: unit rows ``[n, D]``.
      classes: unit rows ``[classes, D]``.
      labels: int ``[n]``.
    """
    shares = recall_at(images, classes, labels, _KS)
    return [
        *(Metric(f"zero_shot/top_{k}", share) for k, share in zip(_KS, shares, strict=True)),
        Metric("zero_shot/chance", 1 / len(classes)),
    ]
