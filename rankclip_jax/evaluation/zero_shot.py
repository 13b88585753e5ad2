"""Zero-shot classification: an image's class is the one whose described name is most similar (Radford et al., 2021)."""

from collections.abc import Callable, Sequence

import numpy as np

from rankclip_jax.evaluation.recall import recall_at


def class_embeddings(
    encode_texts: Callable[[list[str]], np.ndarray], names: Sequence[str], templates: Sequence[str]
) -> np.ndarray:
    """The normalised mean, over templates, of each class's description: ``[classes, D]``."""
    prompts = [template.format(name) for name in names for template in templates]
    mean = encode_texts(prompts).reshape(len(names), len(templates), -1).mean(axis=1)
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def accuracy(images: np.ndarray, classes: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Top-1, top-3 and top-5 accuracy, and that of guessing.

    Args:
      images: unit rows ``[n, D]``.
      classes: unit rows ``[classes, D]``.
      labels: int ``[n]``.
    """
    top_1, top_3, top_5 = recall_at(images, classes, labels, (1, 3, 5))
    return {
        "zero_shot/top_1": top_1,
        "zero_shot/top_3": top_3,
        "zero_shot/top_5": top_5,
        "zero_shot/chance": 1 / len(classes),
    }
