"""How often the right column is among the best ``k`` of a row."""

from collections.abc import Sequence

import numpy as np

_ROWS = 1024


def recall_at(queries: np.ndarray, candidates: np.ndarray, targets: np.ndarray, ks: Sequence[int]) -> list[float]:
    """Share of queries whose target candidate is among the ``k`` most similar, in memory linear in the candidates.

    Candidates as similar as the target (the same caption, say) come in random order: the share is the expected one.

    Args:
      queries: ``[n, D]``.
      candidates: ``[m, D]``.
      targets: int ``[n]``, the column that is right for each row.

    Returns:
      One share in [0, 1] for each of ``ks``.
    """
    hits = np.zeros(len(ks))
    for start in range(0, len(queries), _ROWS):
        scores = queries[start : start + _ROWS] @ candidates.T
        own = np.take_along_axis(scores, targets[start : start + _ROWS, None], axis=1)
        better = (scores > own).sum(axis=1)
        equal = (scores == own).sum(axis=1)  # the target itself included
        hits += [np.clip((k - better) / equal, 0, 1).sum() for k in ks]
    return (hits / len(queries)).tolist()
