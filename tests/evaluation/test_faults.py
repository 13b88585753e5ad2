"""One dataset's fault ends its task alone; images that cannot be read count as wrong, and are said."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score

from rankclip_jax.evaluation import public_results, suite_run
from rankclip_jax.evaluation.compositionality import compositionality
from rankclip_jax.evaluation.evaluation import Evaluation, ModelUnderTest
from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.evaluation.retrieval import retrieval
from rankclip_jax.evaluation.tasks import Task
from rankclip_jax.evaluation.zero_shot import accuracy, worst_group
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.evaluation_sets import open_set
from rankclip_jax.input_pipeline.evaluation_sets.wording import ClassPrompts
from tests.evaluation import layouts
from tests.evaluation.test_metrics import unit, values

IDENTITY = suite_run.Identity("demo", "here", "digest")


def npy(values, dtype):
    file = io.BytesIO()
    np.save(file, np.asarray(values, dtype), allow_pickle=True)
    return file.getvalue()


def npz():
    file = io.BytesIO()
    np.savez(file, a=np.zeros(6))
    return file.getvalue()


LABELS = {
    "shorter": (npy([0, 1, 0], np.int64), "has 3 labels; expected 6, as for the first image"),
    "longer": (npy([0] * 7, np.int64), "has 7 labels; expected 6, as for the first image"),
    "half": (npy([0, 1, 0, 0.5, 1, 0], np.float64), r"has the label 0\.5; expected zeros and ones"),
    "nan": (npy([0, 1, 0, np.nan, 1, 0], np.float32), "has the label nan"),
    "two": (npy([0, 1, 0, 2, 1, 0], np.int64), "has the label 2"),
    "words": (npy(["a"] * 6, "U1"), "not an array of numbers; found <U1"),
    "objects": (npy([None] * 6, object), "not an array of numbers"),
    "complex": (npy([1j] * 6, complex), "not an array of numbers; found complex128"),
    "archive": (npz(), "not an array of numbers; found NpzFile"),
    "cut": (npy([0] * 6, np.int64)[:-5], "not an array of numbers"),
    "nothing": (b"", "not an array of numbers"),
    "huge": (npy([0] * 6, np.int64).replace(b"(6,)", b"(9999999999999999999,)"), "not an array of numbers"),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_that_are_no_zeros_and_ones_are_refused(name, tmp_path):
    content, words = LABELS[name]
    layouts.multilabel(tmp_path)
    image = layouts.encoded(layouts.scenes()[0]["image"])
    good = [{"png": image, "npy": npy([0, 1, 0, 0, 1, 0], kind)} for kind in (np.int64, np.float32, bool)]
    layouts.write_tars(tmp_path / "good", good, shards=1)
    found = open_set("webdataset", tmp_path, "good", ClassPrompts()).truth.classes.labels([0, 1, 2])
    assert found.tolist() == [[0, 1, 0, 0, 1, 0]] * 3
    layouts.write_tars(tmp_path / "bad", [*good, {"png": image, "npy": content}], shards=1)
    with pytest.raises(UserError, match=rf"0\.tar: the \.npy of \S+ .*{words}"):
        open_set("webdataset", tmp_path, "bad", ClassPrompts())


class Fake(Evaluation):
    """An evaluation that does what a test says."""

    def __init__(self, act=lambda *_: [Metric("zero_shot/top_1", 0.5, public_name="acc1")], look=lambda: None):
        vars(self).update(act=act, look=look)

    def check(self, data):
        self.look()

    def evaluate(self, model, data):
        return self.act(model, data)


def run(tmp_path, **fakes):
    tasks = [Task(name, fake, name, "set", "webdataset") for name, fake in fakes.items()]
    found = suite_run.run(
        tasks, tmp_path / "suite.json", tmp_path, ModelUnderTest(None, None, 1), IDENTITY, tmp_path / "out"
    )
    return tasks, found


def written(tmp_path, name):
    return json.loads((tmp_path / "out" / f"{name}.json").read_text())


@pytest.mark.parametrize(
    "error", [UserError("no"), ValueError("no"), KeyError("no"), MemoryError("no"), RecursionError("no"), OSError("no")]
)
@pytest.mark.parametrize("stage", ["opening", "measuring"])
def test_whatever_one_dataset_raises_the_others_are_measured(error, stage, tmp_path, capsys):
    layouts.classification(tmp_path / "set")

    def fail(*_):
        raise error

    failing = Fake(look=fail) if stage == "opening" else Fake(act=fail)
    tasks, (results, faults) = run(tmp_path, retrieval=failing, zero_shot=Fake())
    assert (list(results), list(faults)) == (["zero_shot"], ["retrieval"])
    word = "no" if isinstance(error, UserError) else f"{type(error).__name__}: "
    assert f"{'skipped' if stage == 'opening' else 'failed'}: retrieval: {word}" in capsys.readouterr().out
    assert written(tmp_path, "retrieval")["error"].startswith(word)
    assert written(tmp_path, "retrieval")["metrics"] == {}
    assert "error" not in written(tmp_path, "zero_shot")
    lines = (tmp_path / "out" / public_results.LINES).read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["zero_shot"]
    assert "not evaluated, see above" in suite_run.format_table(tasks, results, faults)


def test_a_failure_does_not_lose_what_the_same_weights_measured_before(tmp_path):
    layouts.classification(tmp_path / "set")
    once = iter([[Metric("zero_shot/top_1", 0.5)]])
    fake = Fake(act=lambda *_: next(once))
    run(tmp_path, zero_shot=fake)
    before = written(tmp_path, "zero_shot")
    (tmp_path / "set").rename(tmp_path / "elsewhere")
    run(tmp_path, zero_shot=fake)
    assert written(tmp_path, "zero_shot") == before | {"error": written(tmp_path, "zero_shot")["error"]}
    (tmp_path / "elsewhere").rename(tmp_path / "set")
    run(tmp_path, zero_shot=fake)
    assert written(tmp_path, "zero_shot") == before


def test_unreadable_images_are_said_when_they_are_measured_and_when_the_result_is_used_again(tmp_path, capsys):
    layouts.classification(tmp_path / "set")

    def measure(model, data):
        model.embedded[id(data.source)] = data.source, SimpleNamespace(unreadable=[0, 1, 2])
        return [Metric("zero_shot/top_1", 0.5)]

    tasks, (results, faults) = run(tmp_path, zero_shot=Fake(act=measure))
    assert "warning: zero_shot: 3 unreadable images count as wrong\n" in capsys.readouterr().out
    run(tmp_path, zero_shot=Fake())
    assert "count as wrong, according to an existing result. To evaluate again, rem" in capsys.readouterr().out
    assert written(tmp_path, "zero_shot")["metrics"]["unreadable_images"] == 3
    (line,) = (tmp_path / "out" / public_results.LINES).read_text().splitlines()
    assert json.loads(line)["metrics"]["unreadable_images"] == 3
    assert suite_run.format_table(tasks, results, faults).endswith("unreadable_images 3")


def test_zero_shot_figures_count_unreadable_images_as_wrong():
    """As if each had been taken for a class that does not exist, which scikit-learn and counting know how to score."""
    images, classes, rng = unit(6, 300, 8), unit(7, 12, 8), np.random.default_rng(8)
    labels, groups = rng.integers(0, 12, 310), rng.integers(0, 4, 310)
    scores = images @ classes.T
    ranked = np.concatenate([np.argsort(-scores, axis=1), np.full((10, 12), -1)])
    found = values(accuracy(images, classes, labels, 10.0))
    for k in (1, 3, 5, 10):
        assert found[f"zero_shot/top_{k}"] == pytest.approx((ranked[:, :k] == labels[:, None]).any(axis=1).mean())
    right = ranked[:, 0] == labels
    assert found["zero_shot/mean_per_class"] == pytest.approx(
        np.mean([right[labels == one].mean() for one in range(12)])
    )
    expected = f1_score(labels, ranked[:, 0], labels=np.arange(12), average="macro")
    assert found["zero_shot/f1"] == pytest.approx(expected)
    worst = values(worst_group(images, classes, labels, groups))["zero_shot/worst_group_top_1"]
    assert worst == pytest.approx(min(right[groups == group].mean() for group in range(4)))
    several = rng.integers(0, 2, (310, 12))
    precision = [
        average_precision_score(several[:300, one], scores[:, one]) * several[:300, one].sum() / several[:, one].sum()
        for one in range(12)
    ]
    found = values(accuracy(images, classes, several))["zero_shot/mean_average_precision"]
    assert found == pytest.approx(np.mean(precision))


def test_retrieval_counts_unreadable_images_as_wrong_and_says_chance_and_counts():
    """By sorting, where an unreadable image is nobody's best."""
    images, texts, owners = unit(0, 40, 8), unit(1, 150, 8), np.repeat(np.arange(50), 3)
    scores = np.full((50, 150), -np.inf)
    scores[:40] = images @ texts.T
    found = values(retrieval(images, texts, np.where(owners < 40, owners, -1), unreadable=10))
    for k in (1, 5, 10):
        best = np.argsort(-scores[:40], axis=1)[:, :k]
        hits = (owners[best] == np.arange(40)[:, None]).any(axis=1).sum() / 50
        assert found[f"retrieval/image_to_text/recall_{k}"] == pytest.approx(hits)
        best = np.argsort(-scores.T, axis=1, kind="stable")[:, :k]
        hits = ((best == owners[:, None]) & (best < 40)).any(axis=1).mean()
        assert found[f"retrieval/text_to_image/recall_{k}"] == pytest.approx(hits)
    assert (found["retrieval/images"], found["retrieval/captions"]) == (50, 150)


def test_chance_is_what_guessing_finds():
    rng = np.random.default_rng(0)
    owners, sentence = rng.integers(0, 6, 30), rng.integers(0, 9, 30)
    owners[:6] = np.arange(6)
    same = np.ones((30, 4), np.float32) / 2  # all candidates tie, so that each is a guess
    for shared in (None, sentence):
        found = values(retrieval(same[:6], same, owners, shared))
        for way in ("image_to_text", "text_to_image"):
            assert found[f"retrieval/{way}/chance"] == pytest.approx(found[f"retrieval/{way}/recall_1"])


def test_compositionality_counts_unreadable_images_as_wrong():
    images = np.eye(4)
    texts = np.stack([np.stack([images[number], images[(number + 1) % 4]]) for number in range(4)])
    assert compositionality(images, texts, 2)[0].value == pytest.approx(4 / 6)
