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


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Of each row."""
    return logits - logsumexp(logits, axis=1, keepdims=True)


OBJECTIVES = ("clip", "siglip", "cyclip", "softclip", "self_distillation", "rankclip", "listnet", "fastclip", "ranking")
DISTILLATIONS = ("rank_distillation", "affinity_distillation")
TARGET_SCALE = 14.3


def objective(
    name: str, x: np.ndarray, t: np.ndarray, scale: float, bias: float, targets: tuple[np.ndarray, np.ndarray]
) -> float:
    """Every objective with its default settings at progress 0.5; soft targets come from the fixed ``targets``."""
    size = len(x)
    image_text = scale * x @ t.T
    match name:
        case "clip":
            return contrastive(x, t, scale)
        case "siglip":
            signs = 2 * np.eye(size) - 1
            return float(np.logaddexp(0, -signs * (image_text + bias)).sum() / size)
        case "cyclip":
            cross, within = (x @ t.T - t @ x.T) ** 2, (x @ x.T - t @ t.T) ** 2
            return contrastive(x, t, scale) + 0.25 * (cross.sum() + within.sum()) / size
        case "softclip":
            return 0.5 * contrastive(x, t, scale) + _soft(image_text, targets)
        case "self_distillation":
            teacher = TARGET_SCALE * targets[0] @ targets[1].T
            soft = -np.sum(np.exp(log_softmax(teacher.T)) * log_softmax(image_text), axis=1)
            soft -= np.sum(np.exp(log_softmax(teacher)) * log_softmax(image_text.T), axis=1)
            return 0.75 * contrastive(x, t, scale) + 0.25 * float(soft.mean()) / 2
        case "listnet":  # by the definition, at a weight of 0.375, in the middle of training
            terms = 0.0
            for scores, relevance in (
                (image_text, targets[1] @ targets[0].T), (image_text.T, targets[0] @ targets[1].T),
                (scale * x @ x.T, targets[1] @ targets[1].T), (scale * t @ t.T, targets[0] @ targets[0].T),
            ):  # fmt: skip
                first = np.exp(log_softmax(TARGET_SCALE * relevance))
                terms -= np.sum(first * log_softmax(scores)) / 2 / size
            return contrastive(x, t, scale) + 0.375 * terms
        case "fastclip":  # v3 with samples that are all new, whose averages are those of the batch
            terms = [
                np.log(1e-14 + (np.exp(rows - np.diag(rows)[:, None]).sum(axis=1) - 1) / (size - 1)).mean()
                for rows in (image_text, image_text.T)
            ]
            return (np.mean(terms) + 6.5) / scale
        case "rankclip" | "ranking":
            terms = consistency(x, t, scale)
            both = terms["cross"][0] + terms["in"][0]
            return both if name == "ranking" else contrastive(x, t, scale) + 1.5 * both
    raise ValueError(name)


def _soft(image_text: np.ndarray, targets: tuple[np.ndarray, np.ndarray]) -> float:
    total = 0.0
    for target, logits in zip(targets, (image_text, image_text.T), strict=True):
        similar = TARGET_SCALE * target @ target.T
        for row in range(len(similar)):
            for weight, kept in ((0.5, slice(None)), (0.5, np.arange(len(similar)) != row)):
                log_q, log_p = (log_softmax(values[row, kept][None])[0] for values in (similar, logits))
                total += weight * np.sum(np.exp(log_q) * (log_q - log_p)) / 2 / len(similar)
    return total
