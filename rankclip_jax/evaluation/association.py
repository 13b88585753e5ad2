"""Association, in WinoGAViL's form: of a few images, are the closest to a cue those that people chose for it?"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from rankclip_jax.evaluation.evaluation import Data, Evaluation, ModelUnderTest
from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.source import Choice, ground_truth_of

# As DataComp sorts them: "5-6" is at most six, "10-12" at least ten.
_SIZES = {"5": (5, 5), "6": (6, 6), "10": (10, 10), "12": (12, 12), "5-6": (0, 6), "10-12": (10, np.inf)}


@dataclasses.dataclass(frozen=True)
class Association(Evaluation):
    """Do images belong to a cue as people say they do?"""

    def check(self, data: Data) -> None:
        """Needs sets of images to choose among."""
        if not ground_truth_of(data.source).choices:
            raise UserError("expected sets of images to choose among, as winogavil has.")

    def evaluate(self, model: ModelUnderTest, data: Data) -> list[Metric]:
        """See `association`."""
        embedded, choices = model.embed(data.source), ground_truth_of(data.source).choices
        if unreadable := len(embedded.unreadable):
            raise UserError(f"{unreadable} images cannot be read, among which are to be chosen.")
        return association(embedded.image, model.texts([choice.cue for choice in choices]), choices)


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
    metrics = [Metric("association/jaccard", float(scores.mean()), public_name="avg_jaccard_score")]
    for name, (least, most) in _SIZES.items():
        found = scores[(least <= sizes) & (sizes <= most)]
        mean = float(found.mean()) if len(found) else None
        metrics.append(Metric(f"association/jaccard_{name}", mean, public_name=f"jaccard_score_{name}"))
    return metrics
