"""How well a model's order of all captions for an image follows their true relevance."""

import numpy as np
import scipy.stats


def ranking_quality(scores: np.ndarray, relevance: np.ndarray) -> dict[str, float]:
    """Kendall's tau and NDCG of each row's order, averaged over rows and over both directions.

    Args:
      scores: the model's, ``[n, n]``: images by captions.
      relevance: the truth, ``[n, n]``, at least zero.
    """
    both = ((scores, relevance), (scores.T, relevance.T))
    return {
        "ranking/kendall_tau": float(np.mean([kendall_tau(*pair) for pair in both])),
        "ranking/ndcg": float(np.mean([ndcg(*pair) for pair in both])),
    }


def kendall_tau(scores: np.ndarray, relevance: np.ndarray) -> float:
    """Mean over rows of Kendall's tau-b (Kendall, 1945), which allows for ties; in [-1, 1]."""
    taus = [scipy.stats.kendalltau(*rows).statistic for rows in zip(scores, relevance, strict=True)]
    return float(np.mean(np.nan_to_num(taus)))  # a row that is all ties agrees with no order


def ndcg(scores: np.ndarray, relevance: np.ndarray) -> float:
    """Mean over rows of the normalised discounted cumulative gain (Jarvelin and Kekalainen, 2002); in [0, 1].

    The gain is the relevance itself, the discount ``1 / log2(rank + 1)``.
    """
    discount = 1 / np.log2(np.arange(2, scores.shape[1] + 2))
    order = np.argsort(-scores, axis=1, kind="stable")
    gained = np.take_along_axis(relevance, order, axis=1) @ discount
    best = -np.sort(-relevance, axis=1) @ discount
    return float(np.mean(np.divide(gained, best, out=np.ones_like(best), where=best > 0)))
