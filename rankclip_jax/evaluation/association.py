"""Association, in WinoGAViL's form: of a few images, are the closest to a cue those that people chose for it?"""

from collections.abc import Sequence

import numpy as np

from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.input_pipeline.source import Choice

# As DataComp sorts them: "5-6" is at most six, "10-12" at least ten.
_SIZES = {"5": (5, 5), "6": (6, 6), "10": (10, 10), "12": (12, 12), "5-6": (0, 6), "10-12": (10, np.inf)}


def association(images: np.ndarray, cues: np.ndarray, choices: Sequence[Choice]) -> list[Metric]:
    """Jaccard's index of the images that people chose and as many that are closest to the cue, averaged over the cues.

    Args:
      images: unit rows ``[n, D]``.
      cues: unit rows ``[m, D]``.
      choices: the ``m`` choices.

    Returns:
      The mean, and the means of those with so many images to choose among; None where there are no such.
    """
    scores = np.empty(len(choices))
    for number, choice in enumerate(choices):
        right = np.asarray(choice.right)
        closest = np.argsort(images[list(choice.images)] @ cues[number])[-right.sum() :]
        hits = right[closest].sum()
        scores[number] = hits / (2 * right.sum() - hits)
    sizes = np.asarray([len(choice.images) for choice in choices])
    metrics = [Metric("association/jaccard", float(scores.mean()))]
    for name, (least, most) in _SIZES.items():
        found = scores[(least <= sizes) & (sizes <= most)]
        metrics.append(Metric(f"association/jaccard_{name}", float(found.mean()) if len(found) else None))
    return metrics
