"""Ranking quality: how well a model's ranking of all captions for an image follows their true relevance."""

import dataclasses

import numpy as np

from rankclip_jax.evaluation.evaluation import Data, Evaluation, ModelUnderTest
from rankclip_jax.evaluation.metric import Metric, Unit
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.source import ground_truth_of

_PAIRS = 512  # in a list


@dataclasses.dataclass(frozen=True)
class RankingQuality(Evaluation):
    """Measures how well the model's rankings of the first 512 pairs follow their true relevance."""

    def check(self, data: Data) -> None:
        """Raises UserError unless the relevance of each image to each caption is known."""
        if ground_truth_of(data.source).relevance is None:
            raise UserError(
                "ranking: expected data with the relevance of each image to each caption, such as the built-in scenes; "
                "found none. Use other data, or another task."
            )

    def evaluate(self, model: ModelUnderTest, data: Data) -> list[Metric]:
        """Returns the metrics of `ranking_quality`."""
        relevance = ground_truth_of(data.source).relevance
        assert relevance is not None
        embedded = model.embed(data.source, _PAIRS)
        indices = embedded.index[:_PAIRS]
        scores = embedded.image[: len(indices)] @ embedded.first_text[: len(indices)].T
        return ranking_quality(scores, np.asarray(relevance(indices.tolist())))


def ranking_quality(scores: np.ndarray, relevance: np.ndarray) -> list[Metric]:
    """Returns Kendall's tau and NDCG of each row's ranking, averaged over rows and over both directions.

    Rows with constant relevance define no ranking and are excluded; if no other rows remain, the metric is undefined.

    Args:
      scores: the model's scores ``[n, n]``, images by captions.
      relevance: the true relevance ``[n, n]``, at least zero.

    Raises:
      ValueError: a score is not finite.
    """
    if not np.isfinite(scores).all():
        raise ValueError("ranking quality: scores are not finite")
    both = ((scores, relevance), (scores.T, relevance.T))
    return [
        _over_rows("ranking/kendall_tau", [kendall_tau(*pair) for pair in both], "correlation"),
        _over_rows("ranking/ndcg", [ndcg(*pair) for pair in both], "share"),
    ]


def _over_rows(name: str, both: list[np.ndarray], unit: Unit) -> Metric:
    """Returns the mean over the rows of each direction, and over both directions."""
    if not all(map(len, both)):
        return Metric(name, None, unit)
    # Each direction counts half, however many of its rows define a ranking.
    weights = np.repeat([1 / len(values) for values in both], [len(values) for values in both])
    values = np.concatenate(both)
    return Metric(
        name, float(np.mean([values.mean() for values in both])), unit, samples=values * weights * len(values) / 2
    )


def kendall_tau(scores: np.ndarray, relevance: np.ndarray) -> np.ndarray:
    """Returns Kendall's tau-b (Kendall, 1945), which allows for ties, of each row that defines a ranking; in [-1, 1].

    It is 0 for rows with constant scores.
    """
    import scipy.stats  # here, since importing it takes a second

    taus = [
        float(np.nan_to_num(scipy.stats.kendalltau(*rows).statistic))
        for rows in zip(scores, relevance, strict=True)
        if np.ptp(rows[1]) > 0
    ]
    return np.asarray(taus)


def ndcg(scores: np.ndarray, relevance: np.ndarray) -> np.ndarray:
    """Returns the normalised discounted cumulative gain (Jarvelin and Kekalainen, 2002) of rows that define a ranking.

    The gain is the relevance itself, the discount ``1 / log2(rank + 1)``.
    """
    has_ranking = np.ptp(relevance, axis=1) > 0
    scores, relevance = scores[has_ranking], relevance[has_ranking]
    discount = 1 / np.log2(np.arange(2, scores.shape[1] + 2))
    order = np.argsort(-scores, axis=1, kind="stable")
    gained = np.take_along_axis(relevance, order, axis=1) @ discount
    best = -np.sort(-relevance, axis=1) @ discount
    return gained / best
