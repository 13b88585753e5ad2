"""Association, as in WinoGAViL: whether the images closest to a cue are those that people chose for it."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from rankclip_jax.evaluation.evaluation import Data, Evaluation, ModelUnderTest
from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.source import Choice, ground_truth_of

# DataComp's groups by number of candidate images: "5-6" is at most six, "10-12" at least ten.
_SIZES = {"5": (5, 5), "6": (6, 6), "10": (10, 10), "12": (12, 12), "5-6": (0, 6), "10-12": (10, np.inf)}


@dataclasses.dataclass(frozen=True)
class Association(Evaluation):
    """Compares the images closest to each cue with those that people chose for it."""

    def check(self, data: Data) -> None:
        """Raises UserError unless the data have sets of images to choose from."""
        if not ground_truth_of(data.source).choices:
            raise UserError(
                "expected data with sets of images to choose from; found none. Use a dataset in the form of winogavil."
            )

    def evaluate(self, model: ModelUnderTest, data: Data) -> list[Metric]:
        """Returns the metrics of `association`."""
        embedded, choices = model.embed(data.source), ground_truth_of(data.source).choices
        if unreadable := len(embedded.unreadable):
            raise UserError(
                f"association: expected all images to be readable; {unreadable} cannot be read. Repair them, or "
                "download them again; the warnings above name them."
            )
        return association(embedded.image, model.texts([choice.cue for choice in choices]), choices)


def association(images: np.ndarray, cues: np.ndarray, choices: Sequence[Choice]) -> list[Metric]:
    """Returns the mean Jaccard index, over cues, of the images that people chose and the same number of closest images.

    Args:
      images: unit rows ``[n, D]``.
      cues: unit rows ``[m, D]``.
      choices: the ``m`` choices.

    Returns:
      The mean over all cues, and the mean for each number of candidate images; None where no cue has this number.
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
        selected = scores[(least <= sizes) & (sizes <= most)]
        mean = float(selected.mean()) if len(selected) else None
        metrics.append(Metric(f"association/jaccard_{name}", mean, public_name=f"jaccard_score_{name}"))
    return metrics
