"""How often a right column is among the best ``k`` of a row."""

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

_ENTRIES = 1 << 24  # of similarities looked at together: rows are taken in blocks, however many columns there are


def recall_at(
    queries: np.ndarray,
    candidates: np.ndarray,
    right: np.ndarray | csr_array,
    ks: Sequence[int],
) -> list[float]:
    """Share of queries of which a right candidate is among the ``k`` most similar: the mean of `hits_at`."""
    return hits_at(queries, candidates, right, ks).mean(axis=0).tolist()


def hits_at(
    queries: np.ndarray,
    candidates: np.ndarray,
    right: np.ndarray | csr_array,
    ks: Sequence[int],
) -> np.ndarray:
    """Whether a right candidate is among the ``k`` most similar, in memory linear in queries and candidates.

    Candidates as similar as the best right one (the same caption, say) come in random order: the hit is the expected
    one.

    Args:
      queries: ``[n, D]``.
      candidates: ``[m, D]``.
      right: which candidates are right for each query: int ``[n]``, one for each; or bool ``[n, m]``, any number.
      ks: how many are looked at.

    Returns:
      Numbers in [0, 1]: ``[n, len(ks)]``.

    Raises:
      ValueError: an embedding is not finite, of which nothing can be said.
    """
    for kind, rows in (("queries", queries), ("candidates", candidates)):
        if not np.isfinite(rows).all():
            raise ValueError(
                f"recall: {int((~np.isfinite(rows).all(axis=1)).sum())} of {len(rows)} {kind} are not finite"
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


def _chance_of_one(tied: np.ndarray, right: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The chance that one of the ``right`` among the ``tied``, in random order, is within the first ``places``."""
    places = np.clip(places, 0, tied)
    none = np.ones(len(tied))
    for number in range(int(right.max(initial=0))):
        left = np.maximum(tied - number, 1)
        none = np.where(number < right, none * np.clip(tied - places - number, 0, None) / left, none)
    return np.where(right > 0, 1 - none, 0)
