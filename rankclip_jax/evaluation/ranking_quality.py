"""How well a model's order of all captions for an image follows their true relevance."""

import dataclasses

import numpy as np

from rankclip_jax.evaluation.evaluation import Data, Evaluation, ModelUnderTest
from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.source import ground_truth_of

_PAIRS = 512  # in a list


@dataclasses.dataclass(frozen=True)
class RankingQuality(Evaluation):
    """How well the model's orders of the first 512 pairs follow their true relevance."""

    def check(self, data: Data) -> None:
        """Needs the relevance of each image to each caption."""
        if ground_truth_of(data.source).relevance is None:
            raise UserError("of the images and captions no relevance is known.")

    def evaluate(self, model: ModelUnderTest, data: Data) -> list[Metric]:
        """See `ranking_quality`."""
        relevance = ground_truth_of(data.source).relevance
        assert relevance is not None
        embedded = model.embed(data.source, _PAIRS)
        few = embedded.index[:_PAIRS]
        scores = embedded.image[: len(few)] @ embedded.first_text[: len(few)].T
        return ranking_quality(scores, np.asarray(relevance(few.tolist())))


def ranking_quality(scores: np.ndarray, relevance: np.ndarray) -> list[Metric]:
    """Kendall's tau and NDCG of each row's order, averaged over rows and over both directions.

    A row whose truth is all alike has no order to follow, and is left out; where there is no other, the measure is
    undefined.

    Args:
      scores: the model's, ``[n, n]``: images by captions.
      relevance: the truth, ``[n, n]``, at least zero.

    Raises:
      ValueError: a score is not finite.
    """
    if not np.isfinite(scores).all():
        raise ValueError("ranking quality: scores are not finite")
    both = ((scores, relevance), (scores.T, relevance.T))
    return [
        Metric("ranking/kendall_tau", _mean([kendall_tau(*pair) for pair in both]), "correlation"),
        Metric("ranking/ndcg", _mean([ndcg(*pair) for pair in both])),
    ]


def kendall_tau(scores: np.ndarray, relevance: np.ndarray) -> float | None:
    """Mean over rows of Kendall's tau-b (Kendall, 1945), which allows for ties; in [-1, 1].

    A row of scores that are all alike follows no order: 0.
    """
    import scipy.stats  # here, since importing it takes a second

    taus = [
        float(np.nan_to_num(scipy.stats.kendalltau(*rows).statistic))
        for rows in zip(scores, relevance, strict=True)
        if np.ptp(rows[1]) > 0
    ]
    return _mean(taus)


def ndcg(scores: np.ndarray, relevance: np.ndarray) -> float | None:
    """Mean over rows of the normalised discounted cumulative gain (Jarvelin and Kekalainen, 2002); in [0, 1].

    The gain is the relevance itself, the discount ``1 / log2(rank + 1)``.
    """
    told = np.ptp(relevance, axis=1) > 0
    scores, relevance = scores[told], relevance[told]
    discount = 1 / np.log2(np.arange(2, scores.shape[1] + 2))
    order = np.argsort(-scores, axis=1, kind="stable")
    gained = np.take_along_axis(relevance, order, axis=1) @ discount
    best = -np.sort(-relevance, axis=1) @ discount
    return _mean(list(gained / best))


def _mean(values: list) -> float | None:
    return None if not values or None in values else float(np.mean(values))
