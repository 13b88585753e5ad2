"""Recall, zero-shot accuracy and ranking quality against the definitions."""

import numpy as np
import pytest
import scipy.stats

from rankclip_jax.evaluation import ranking_quality, results
from rankclip_jax.evaluation.recall import recall_at
from rankclip_jax.evaluation.retrieval import retrieval
from rankclip_jax.evaluation.zero_shot import accuracy, class_embeddings, worst_group


def unit(seed, *shape):
    x = np.random.default_rng(seed).normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def values(metrics):
    return {metric.name: metric.value for metric in metrics}


def test_recall_is_the_share_found_by_sorting():
    queries, candidates = unit(0, 2000, 8), unit(1, 50, 8)
    targets = np.random.default_rng(2).integers(0, 50, 2000)
    ranked = np.argsort(-(queries @ candidates.T), axis=1)
    expected = [(ranked[:, :k] == targets[:, None]).any(1).mean() for k in (1, 5)]
    assert recall_at(queries, candidates, targets, (1, 5)) == pytest.approx(expected)


def test_a_caption_of_several_images_is_found_with_any_of_them():
    """Against the same by sorting, over images that share captions and captions that share images."""
    rng = np.random.default_rng(3)
    images, captions = unit(4, 60, 8), unit(5, 25, 8)
    image_of_text, sentence = np.repeat(np.arange(60), 3), rng.integers(0, 25, 180) * 7
    names, which = np.unique(sentence, return_inverse=True)
    fits = np.zeros((60, len(names)), bool)
    fits[image_of_text, which] = True
    found = values(retrieval(images, captions[which], image_of_text, sentence))
    scores = images @ captions[: len(names)].T
    for way, order, right in (("image_to_text", scores, fits), ("text_to_image", scores.T, fits.T)):
        ranked = np.take_along_axis(right, np.argsort(-order, axis=1), axis=1)
        for k in (1, 5, 10):
            assert found[f"retrieval/{way}/recall_{k}"] == pytest.approx(ranked[:, :k].any(axis=1).mean())


def test_a_collapsed_model_gets_chance_not_full_marks():
    same = np.ones((20, 4), np.float32) / 2
    results = values(retrieval(same, same, np.arange(20)))
    assert results["retrieval/image_to_text/recall_1"] == pytest.approx(1 / 20)
    assert results["retrieval/text_to_image/recall_10"] == pytest.approx(10 / 20)


def test_zero_shot_averages_templates():
    prompts = {"a cat": [1.0, 0, 0], "the cat": [0, 1.0, 0], "a dog": [0, 0, 1.0], "the dog": [0, 0, 1.0]}
    classes = class_embeddings(
        lambda texts: np.array([prompts[text] for text in texts]), [["a cat", "the cat"], ["a dog", "the dog"]]
    )
    np.testing.assert_allclose(classes, [[2**-0.5, 2**-0.5, 0], [0, 0, 1]])
    results = values(accuracy(np.array([[1.0, 0, 0], [0, 0, 1.0]]), classes, np.array([0, 0])))
    assert results["zero_shot/top_1"] == 0.5
    assert results["zero_shot/chance"] == 0.5


def test_the_worst_group_and_f1_are_their_definitions():
    images, classes, rng = unit(6, 300, 8), unit(7, 9, 8), np.random.default_rng(8)
    labels, groups = rng.integers(0, 7, 300), rng.integers(0, 4, 300)  # two classes have no image
    ranked = np.argsort(-(images @ classes.T), axis=1)
    found = values(worst_group(images, classes, labels, groups))
    for k in (1, 5):
        right = (ranked[:, :k] == labels[:, None]).any(axis=1)
        shares = [right[groups == group].mean() for group in range(4)]
        assert found[f"zero_shot/worst_group_top_{k}"] == pytest.approx(min(shares))
    scores = []
    for label in range(7):
        said, true = ranked[:, 0] == label, labels == label
        scores.append(2 * (said & true).sum() / (said.sum() + true.sum()))
    assert values(accuracy(images, classes, labels))["zero_shot/f1"] == pytest.approx(np.mean(scores))


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
    results = values(ranking_quality.ranking_quality(scores, relevance))
    assert results["ranking/kendall_tau"] == pytest.approx((np.mean(rows) + np.mean(columns)) / 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["queries", "candidates"])
def test_embeddings_that_are_not_finite_are_an_error_and_not_full_marks(bad, place):
    rows = {"queries": unit(0, 6, 4), "candidates": unit(1, 6, 4)}
    rows[place][2, 1] = bad
    with pytest.raises(ValueError, match=f"the embeddings of 1 of 6 {place} are not finite"):
        recall_at(rows["queries"], rows["candidates"], np.arange(6), (1,))
    with pytest.raises(ValueError, match="not finite"):
        ranking_quality.ranking_quality(rows["queries"] @ rows["candidates"].T, np.eye(6))


def test_any_of_several_captions_finds_its_image_and_ties_are_expected_hits():
    """By brute force over all orders of ties."""
    rng = np.random.default_rng(0)
    images, texts = np.eye(3)[[0, 1, 2]], np.eye(3)[[0, 0, 1, 1, 2]]
    image_of_text = np.array([0, 1, 1, 2, 2])
    found = values(retrieval(images, texts, image_of_text))
    hits, backward = [], []
    for _ in range(20_000):
        noise = rng.random((3, 5)) * 1e-6
        order = np.argsort(-(images @ texts.T + noise), axis=1)
        hits.append(image_of_text[order[:, 0]] == np.arange(3))
        order = np.argsort(-(texts @ images.T + noise.T), axis=1)
        backward.append(order[:, 0] == image_of_text)
    assert found["retrieval/image_to_text/recall_1"] == pytest.approx(np.mean(hits), abs=0.01)
    assert found["retrieval/text_to_image/recall_1"] == pytest.approx(np.mean(backward), abs=0.01)
    assert found["retrieval/image_to_text/recall_5"] == 1


def test_what_the_truth_does_not_define_is_undefined_and_not_zero():
    one = values(ranking_quality.ranking_quality(np.ones((1, 1)), np.ones((1, 1))))
    assert one == {"ranking/kendall_tau": None, "ranking/ndcg": None}
    relevance = np.array([[1.0, 1.0, 1.0], [0.0, 0.5, 1.0]])
    scores = np.array([[3.0, 1.0, 2.0], [0.1, 0.2, 0.3]])
    assert ranking_quality.kendall_tau(scores, relevance) == 1  # the first row has no order to follow
    assert ranking_quality.kendall_tau(np.ones((2, 3)), relevance) == 0  # a collapsed model follows none


def test_samples_are_the_values_of_each_query_and_are_kept(tmp_path):
    images, texts = unit(0, 9, 4), unit(1, 9, 4)
    metrics = retrieval(images, texts, np.arange(9), unreadable=1)
    metrics += accuracy(images, texts[:5], np.arange(10) % 5)
    metrics += ranking_quality.ranking_quality(images @ texts.T, np.random.default_rng(2).uniform(size=(9, 9)))
    found = {metric.name: metric for metric in metrics if metric.samples is not None}
    for name, size in (("retrieval/image_to_text/recall_1", 10), ("retrieval/text_to_image/recall_5", 9),
                       ("zero_shot/top_3", 10), ("ranking/ndcg", 18), ("ranking/kendall_tau", 18)):  # fmt: skip
        assert len(found[name].samples) == size
    for metric in found.values():
        assert np.mean(metric.samples) == pytest.approx(metric.value, rel=1e-12)
    (tmp_path / "evaluation").mkdir()
    results.write(tmp_path, 3, metrics[:8])
    results.write(tmp_path, 3, metrics[8:])
    kept = results.samples(tmp_path, 3)
    assert kept.keys() == found.keys()
    np.testing.assert_array_equal(kept["ranking/ndcg"], found["ranking/ndcg"].samples)
