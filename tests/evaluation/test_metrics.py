"""Recall, zero-shot accuracy and ranking quality against the definitions."""

import numpy as np
import pytest
import scipy.stats

from rankclip_jax.evaluation import ranking_quality
from rankclip_jax.evaluation.recall import recall_at
from rankclip_jax.evaluation.retrieval import retrieval
from rankclip_jax.evaluation.zero_shot import accuracy, class_embeddings


def unit(seed, *shape):
    x = np.random.default_rng(seed).normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def test_recall_is_the_share_found_by_sorting():
    queries, candidates = unit(0, 2000, 8), unit(1, 50, 8)
    targets = np.random.default_rng(2).integers(0, 50, 2000)
    ranked = np.argsort(-(queries @ candidates.T), axis=1)
    expected = [(ranked[:, :k] == targets[:, None]).any(1).mean() for k in (1, 5)]
    assert recall_at(queries, candidates, targets, (1, 5)) == pytest.approx(expected)


def test_a_collapsed_model_gets_chance_not_full_marks():
    same = np.ones((20, 4), np.float32) / 2
    results = retrieval(same, same)
    assert results["retrieval/image_to_text/recall_1"] == pytest.approx(1 / 20)
    assert results["retrieval/text_to_image/recall_10"] == pytest.approx(10 / 20)


def test_zero_shot_averages_templates():
    prompts = {"a cat": [1.0, 0, 0], "the cat": [0, 1.0, 0], "a dog": [0, 0, 1.0], "the dog": [0, 0, 1.0]}
    classes = class_embeddings(
        lambda texts: np.array([prompts[text] for text in texts]), ["cat", "dog"], ["a {}", "the {}"]
    )
    np.testing.assert_allclose(classes, [[2**-0.5, 2**-0.5, 0], [0, 0, 1]])
    results = accuracy(np.array([[1.0, 0, 0], [0, 0, 1.0]]), classes, np.array([0, 0]))
    assert results["zero_shot/top_1"] == 0.5
    assert results["zero_shot/chance"] == 0.5


def test_ndcg_and_tau_of_a_perfect_order_are_one():
    relevance = np.random.default_rng(0).permuted(np.tile(np.arange(12.0), (5, 1)), axis=1)
    assert ranking_quality.ndcg(relevance, relevance) == pytest.approx(1)
    assert ranking_quality.kendall_tau(relevance, relevance) == pytest.approx(1)
    assert ranking_quality.kendall_tau(-relevance, relevance) == pytest.approx(-1)


def test_ndcg_is_its_definition():
    scores, relevance = np.array([[0.1, 0.9, 0.5]]), np.array([[1.0, 0.5, 0.0]])
    gained = 0.5 / np.log2(2) + 0.0 / np.log2(3) + 1.0 / np.log2(4)
    best = 1.0 / np.log2(2) + 0.5 / np.log2(3)
    assert ranking_quality.ndcg(scores, relevance) == pytest.approx(gained / best)


def test_both_directions_are_averaged():
    scores, relevance = unit(0, 6, 6), unit(1, 6, 6) + 1
    rows = [scipy.stats.kendalltau(a, b).statistic for a, b in zip(scores, relevance, strict=True)]
    columns = [scipy.stats.kendalltau(a, b).statistic for a, b in zip(scores.T, relevance.T, strict=True)]
    results = ranking_quality.ranking_quality(scores, relevance)
    assert results["ranking/kendall_tau"] == pytest.approx((np.mean(rows) + np.mean(columns)) / 2)
