"""Agreement of the two modalities: the consistency of their rankings, and the geometry of their embeddings."""

import dataclasses

import numpy as np

from rankclip_jax.evaluation.evaluation import Data, Evaluation, ModelUnderTest
from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.source import captions

_NEAREST = 10
_PAIRS = 512


@dataclasses.dataclass(frozen=True)
class Consistency(Evaluation):
    """Measures the ranking consistency and the geometry of the embeddings of the first 512 pairs."""

    def check(self, data: Data) -> None:
        """Raises UserError unless the first record has captions."""
        if not captions(data.source[0]):
            raise UserError(
                "consistency: expected images with captions; found images with labels only. Use data with captions."
            )

    def evaluate(self, model: ModelUnderTest, data: Data) -> list[Metric]:
        """Returns the metrics of `consistency` and `geometry`."""
        embedded = model.embed(data.source, _PAIRS)
        pairs = embedded.image[:_PAIRS], embedded.first_text[:_PAIRS]
        return [*consistency(*pairs), *geometry(*pairs)]


def consistency(images: np.ndarray, texts: np.ndarray) -> list[Metric]:
    """Returns metrics of what RankCLIP's loss optimises: the agreement of rankings across and within modalities.

    Cross-modal: the ranking of all texts for an image against that of all images for its text. In-modal: the ranking of
    all images for an image against that of all texts for its text. The pair itself is excluded from both. The metrics
    are Kendall's tau-b, Spearman's rank correlation, and the overlap of the nearest ten, each the mean over pairs.

    Args:
      images: unit rows ``[n, D]``.
      texts: unit rows ``[n, D]``, each the text of the image in its row.
    """
    orders = {
        "cross_modal": (images @ texts.T, texts @ images.T),
        "in_modal": (images @ images.T, texts @ texts.T),
    }
    return [metric for name, pair in orders.items() for metric in _agreement(name, *map(_others, pair))]


def geometry(images: np.ndarray, texts: np.ndarray) -> list[Metric]:
    """Returns the modality gap, alignment and uniformity.

    The gap is the distance between the means of the modalities (Liang et al., 2022), alignment the mean squared
    distance within a pair, and uniformity the logarithm of the mean of ``exp(-2 d^2)`` over pairs of one modality (Wang
    and Isola, 2020).

    Args:
      images: unit rows ``[n, D]``.
      texts: unit rows ``[n, D]``, each the text of the image in its row.
    """
    return [
        Metric("geometry/modality_gap", float(np.linalg.norm(images.mean(axis=0) - texts.mean(axis=0))), "", None),
        Metric("geometry/alignment", float(np.square(images - texts).sum(axis=1).mean()), "", None),
        Metric("geometry/uniformity_image", _uniformity(images), "", None),
        Metric("geometry/uniformity_text", _uniformity(texts), "", None),
    ]


def _others(scores: np.ndarray) -> np.ndarray:
    """Returns the off-diagonal entries of each row: ``[n, n - 1]``."""
    count = len(scores)
    return scores[~np.eye(count, dtype=bool)].reshape(count, count - 1)


def _agreement(name: str, first: np.ndarray, second: np.ndarray) -> list[Metric]:
    if len(first) < 3:  # with two pairs, each has a single other and thus no ranking
        return [Metric(f"consistency/{name}/{kind}", None) for kind in ("kendall_tau", "spearman", "overlap_10")]
    import scipy.stats  # here, since importing it takes a second

    both = list(zip(first, second, strict=True))
    tau = np.mean([np.nan_to_num(scipy.stats.kendalltau(*rows).statistic) for rows in both])
    ranks = [scipy.stats.rankdata(scores, axis=1) for scores in (first, second)]
    nearest = min(_NEAREST, first.shape[1])
    top = [np.argpartition(-scores, nearest - 1, axis=1)[:, :nearest] for scores in (first, second)]
    overlap = np.mean([len(np.intersect1d(*rows)) / nearest for rows in zip(*top, strict=True)])
    return [
        Metric(f"consistency/{name}/kendall_tau", float(tau), "correlation"),
        Metric(f"consistency/{name}/spearman", _correlation(*ranks), "correlation"),
        Metric(f"consistency/{name}/overlap_10", float(overlap)),
    ]


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Returns the mean over rows of Pearson's correlation; 0 for constant rows."""
    first, second = (rows - rows.mean(axis=1, keepdims=True) for rows in (first, second))
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return float(np.mean((first * second).sum(axis=1) / np.where(norms > 0, norms, 1)))


def _uniformity(rows: np.ndarray) -> float | None:
    if len(rows) < 2:
        return None
    rows = rows.astype(np.float64)
    similarities = (rows @ rows.T)[np.triu_indices(len(rows), 1)]
    return float(np.log(np.exp(-2 * (2 - 2 * similarities)).mean()))
