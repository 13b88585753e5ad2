"""Independent float64 versions, written from the formulas with loops where loops are clearest."""

import numpy as np
from scipy.special import logsumexp


def listmle(scores: np.ndarray, relevance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loss of each row and its gradient, by the definition."""
    losses, gradients = np.zeros(len(scores)), np.zeros_like(scores, dtype=np.float64)
    for row, (p, y) in enumerate(zip(scores.astype(np.float64), relevance, strict=True)):
        order = np.argsort(-y, kind="stable")
        sorted_p = p[order]
        log_tails = np.array([logsumexp(sorted_p[k:]) for k in range(len(p))])
        losses[row] = np.sum(log_tails - sorted_p)
        for k, column in enumerate(order):
            gradients[row, column] = np.sum(np.exp(sorted_p[k] - log_tails[: k + 1])) - 1
    return losses, gradients


def mutual(first: np.ndarray, second: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """(ListMLE(first, second) + ListMLE(second, first)) / 32 / B and its gradients."""
    size = len(first)
    a, a_gradient = listmle(first, second)
    b, b_gradient = listmle(second, first)
    weight = 1 / 32 / size / size
    return (a.sum() + b.sum()) * weight, a_gradient * weight, b_gradient * weight


def consistency(x: np.ndarray, t: np.ndarray, scale: float) -> dict[str, tuple[float, np.ndarray, np.ndarray]]:
    """Each term's value and its gradients with respect to x and t."""
    cross, d_xt, d_tx = mutual(scale * x @ t.T, scale * t @ x.T)
    within, d_xx, d_tt = mutual(scale * x @ x.T, scale * t @ t.T)
    return {
        "cross": (cross, scale * (d_xt @ t + d_tx.T @ t), scale * (d_xt.T @ x + d_tx @ x)),
        "in": (within, scale * (d_xx + d_xx.T) @ x, scale * (d_tt + d_tt.T) @ t),
    }


def contrastive(x: np.ndarray, t: np.ndarray, scale: float) -> float:
    """CLIP's loss."""
    logits = scale * x.astype(np.float64) @ t.T.astype(np.float64)
    rows = logsumexp(logits, axis=1) - np.diag(logits)
    columns = logsumexp(logits, axis=0) - np.diag(logits)
    return float((rows.mean() + columns.mean()) / 2)


def unit_rows(seed: int, rows: int, width: int) -> np.ndarray:
    """Random unit rows, float64."""
    x = np.random.default_rng(seed).normal(size=(rows, width))
    return x / np.linalg.norm(x, axis=1, keepdims=True)
