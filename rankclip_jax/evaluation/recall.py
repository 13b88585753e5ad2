"""Recall at ``k``: how often a correct candidate is among the ``k`` most similar ones."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

_ENTRIES = 1 << 24  # similarities of a block: rows are processed in blocks, to bound memory for any number of columns


def recall_at(
    queries: np.ndarray,
    candidates: np.ndarray,
    right: np.ndarray | csr_array,
    ks: Sequence[int],
) -> list[float]:
    """Returns the fraction of queries with a correct candidate among the ``k`` most similar: the mean of `hits_at`."""
    return hits_at(queries, candidates, right, ks).mean(axis=0).tolist()


def hits_at(
    queries: np.ndarray,
    candidates: np.ndarray,
    right: np.ndarray | csr_array,
    ks: Sequence[int],
) -> np.ndarray:
    """Returns whether a correct candidate is among the ``k`` most similar, in memory linear in queries and candidates.

    Ties with the most similar correct candidate, such as equal captions, are broken at random; the result is the
    expectation.

    Args:
      queries: ``[n, D]``.
      candidates: ``[m, D]``.
      right: the correct candidates of each query: int ``[n]``, one for each; or bool ``[n, m]``, any number.
      ks: the values of ``k``.

    Returns:
      Probabilities of a hit in [0, 1]: ``[n, len(ks)]``.

    Raises:
      ValueError: an embedding is not finite.
    """
    for kind, rows in (("queries", queries), ("candidates", candidates)):
        if not np.isfinite(rows).all():
            raise ValueError(
                f"recall: the embeddings of {int((~np.isfinite(rows).all(axis=1)).sum())} of {len(rows)} {kind} are "
                "not finite"
            )
    if isinstance(right, np.ndarray):
        n = len(right)
        right = csr_array((np.ones(n, bool), (np.arange(n), right)), (n, len(candidates)))
    hits = np.zeros((len(queries), len(ks)))
    at_once = max(_ENTRIES // len(candidates), 1)
    for start in range(0, len(queries), at_once):
        block = slice(start, start + at_once)
        scores = queries[block] @ candidates.T
        fits = right[block].toarray()
        best = np.max(scores, axis=1, where=fits, initial=-np.inf, keepdims=True)
        better = (scores > best).sum(axis=1)
        tied = scores == best
        count, count_right = tied.sum(axis=1), (tied & fits).sum(axis=1)
        hits[block] = np.stack([_chance_of_one(count, count_right, k - better) for k in ks], axis=1)
    return hits


def _chance_of_one(tied: np.ndarray, right: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Returns the probability that one of ``right`` among ``tied``, in random order, is in the first ``ranks``."""
    ranks = np.clip(ranks, 0, tied)
    none = np.ones(len(tied))
    for number in range(int(right.max(initial=0))):
        left = np.maximum(tied - number, 1)
        none = np.where(number < right, none * np.clip(tied - ranks - number, 0, None) / left, none)
    return np.where(right > 0, 1 - none, 0)
