"""Icon sets: which drawings, their captions and pixels, the splits, and the truth for evaluation."""

import io
import json
import re
import tarfile

import numpy as np
import pytest
from PIL import Image

from rankclip_jax.evaluation.tasks import parse
from rankclip_jax.input_pipeline import array_record, prepare
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.evaluation_sets import open_set
from rankclip_jax.input_pipeline.evaluation_sets.wording import ClassPrompts
from rankclip_jax.input_pipeline.preparation import iconify, manifest
from tests.commands import run

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow Datasets warns of much

FULL = '<path fill="currentColor" d="M0 0h16v16H0z"/>'
HALF = '<path fill="currentColor" d="M0 0h8v16H0z"/>'


def info(license, **others):
    return {
        "name": "A set",
        "author": {"name": "Ann", "url": "https://example.org"},
        "license": {"spdx": license},
    } | others


INFOS = {
    "alpha": info("MIT", tags=["Uses Stroke"]),
    "beta": info("Apache-2.0", palette=True),
    "gamma": info("GPL-3.0"),
    "lucide": info("ISC"),
}  # fmt: skip
SETS = {
    "alpha": {
        "icons": {
            "star": {"body": FULL},
            "star-filled": {"body": HALF},
            "arrow-left-16-filled": {"body": FULL},
            "arrow-left-24-filled": {"body": HALF},
            "secret": {"body": FULL, "hidden": True},
            "file": {"body": '<image href="file:///etc/passwd"/>'},
            "style": {"body": "<style>@import url(http://127.0.0.1/x)</style>"},
            "broken": {"body": "<path"},
            "moon-full": {"body": FULL},
            **{f"shape-n{number}": {"body": FULL} for number in range(300)},
        },
        "aliases": {"favorite-filled": {"parent": "star"}, "rats": {"parent": "star", "hFlip": True}},
        "categories": {"Shapes / Basic": ["star"]},
    },
    "beta": {"icons": {"star": {"body": '<rect width="32" height="16" fill="red"/>', "width": 32}}},
    "gamma": {"icons": {"copyleft": {"body": FULL}}},
    "lucide": {"icons": {name: {"body": HALF} for name in ("star", "moon", "arrow-left", "axe")}},
}  # fmt: skip


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    path = tmp_path_factory.mktemp("npm") / "iconify-json-1.0.0.tgz"
    files = {"collections.json": INFOS, "package.json": {}}
    for name, content in SETS.items():
        files[f"json/{name}.json"] = {"prefix": name, "info": INFOS[name], "width": 16, "height": 16} | content
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            encoded = json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(encoded)
            tar.addfile(member, io.BytesIO(encoded))
    return path


def prepare_icons(path, output, *options):
    words = ["--source", "iconify", "--input", path, "--output", output, "--workers", "1", "--size", "32", *options]
    prepare.main([str(word) for word in words])
    return output


@pytest.fixture(scope="module")
def prepared(package, tmp_path_factory):
    return prepare_icons(package, tmp_path_factory.mktemp("icons") / "icons")


def records(folder, split):
    """The image and captions of each record by key."""
    source = array_record.open_split(folder, split, flag="--output")
    return dict(zip(source.keys(), (source[index] for index in range(len(source))), strict=True))


def pixels(record):
    return np.asarray(Image.open(io.BytesIO(record["image"])).convert("RGB"))


def test_each_drawing_has_a_split(prepared):
    found = {split: set(records(prepared, split)) for split in iconify.SPLITS}
    assert found["new_style"] == {"lucide/star", "lucide/arrow-left", "lucide/axe"}  # moon is a word held out
    assert found["new_concept"] == {"alpha/moon-full"}
    drawn = {"alpha/star", "alpha/star-filled", "alpha/arrow-left-24-filled", "beta/star"}
    drawn |= {f"alpha/shape-n{number}" for number in range(300)}
    assert found["train"] | found["validation"] == drawn
    assert 1 <= len(found["validation"]) < 20
    assert not found["train"] & found["validation"]


def test_what_is_not_drawn_is_counted(prepared):
    skipped = manifest.read(prepared)["splits"]["train"]["skipped"]
    assert skipped["a drawing that refers to something outside of it"]["first"] == ["alpha/file", "alpha/style"]
    assert skipped["a drawing that cannot be rendered"]["count"] == 1


def test_captions_are_names_styles_other_names_and_categories(prepared):
    train = records(prepared, "train")
    assert train["alpha/star"]["text"] == ["star, outline", "favorite", "star, shapes basic"]
    assert train["alpha/star-filled"]["text"] == ["star, filled"]
    assert train["alpha/arrow-left-24-filled"]["text"] == ["arrow left, filled"]
    assert train["beta/star"]["text"] == ["star, colored"]
    assert records(prepared, "new_style")["lucide/axe"]["text"] == ["axe"]


def test_pixels_are_those_of_the_drawing(prepared, package, tmp_path):
    train = records(prepared, "train")
    assert (pixels(train["alpha/star"]) == 0).all()
    half = pixels(train["alpha/star-filled"])
    assert (half[:, :16] == 0).all()
    assert (half[:, 16:] == 255).all()
    wide = pixels(train["beta/star"])  # in the middle of a square
    assert (wide[8:24] == (255, 0, 0)).all()
    assert (wide[:8] == 255).all()
    assert (wide[24:] == 255).all()
    other = prepare_icons(package, tmp_path / "x", "--color", "#00ff00", "--background", "black", "--size", "20")
    half = pixels(records(other, "train")["alpha/star-filled"])
    assert half.shape == (20, 20, 3)
    assert (half[:, :10] == (0, 255, 0)).all()
    assert (half[:, 10:] == 0).all()


def test_the_manifest_credits_each_set(prepared):
    assert manifest.read(prepared)["sets"] == [
        {"set": name, "name": "A set", "author": "Ann", "license": license, "url": "https://example.org"}
        for name, license in (("alpha", "MIT"), ("beta", "Apache-2.0"), ("lucide", "ISC"))
    ]


def test_a_folder_and_more_workers_give_the_same_bytes(prepared, package, tmp_path):
    with tarfile.open(package) as tar:
        tar.extractall(tmp_path, filter="data")
    other = prepare_icons(tmp_path / "package", tmp_path / "x", "--workers", "2")
    shards = [path.name for path in prepared.glob("*.array_record*")]
    assert len(shards) == 4
    assert all((other / name).read_bytes() == (prepared / name).read_bytes() for name in shards)
    for name in ("truth", "sets"):
        assert manifest.read(other)[name] == manifest.read(prepared)[name]


def test_relevance_is_the_weight_of_shared_words(prepared):
    found = open_set("", prepared, "new_style", ClassPrompts())
    texts = [found[index]["text"][0] for index in range(3)]
    weights = manifest.read(prepared)["truth"]["word_weights"]
    train = [record["text"] for record in records(prepared, "train").values()]
    for word in ("star", "filled", "arrow"):
        having = sum(any(word in text.replace(",", "").split() for text in texts) for texts in train)
        total = len(train) + 3  # with those that could not be drawn
        assert weights[word] == pytest.approx(np.log(total / having), abs=1e-6)
    heaviest = max(weights.values())
    expected = np.zeros((3, 3))
    for row, first in enumerate(texts):
        for column, second in enumerate(texts):
            weight = {word: weights.get(word, heaviest) for word in second.split()}
            shared = sum(value for word, value in weight.items() if word in first.split())
            expected[row, column] = shared / sum(weight.values())
    np.testing.assert_allclose(found.truth.relevance([0, 1, 2]), expected)


def test_classes_are_names_that_many_sets_draw(prepared):
    found = open_set("", prepared, "classes", ClassPrompts())
    assert found.truth.classes.names == ("star", "arrow left")  # the axe is in no set that is trained on
    keys = array_record.open_split(prepared, "new_style", flag="x").keys()
    labels = found.truth.classes.labels(range(len(found)))
    assert [(keys[number], label) for number, label in zip(found.numbers, labels, strict=True)] == [
        (key, {"lucide/star": 0, "lucide/arrow-left": 1}[key]) for key in keys if key != "lucide/axe"
    ]
    assert found.truth.classes.prompts[0] == ["star", "star, outline", "star, filled"]
    with pytest.raises(UserError, match="no split 'test'; choose from new_concept, new_style, train, validation, cl"):
        open_set("", prepared, "test", ClassPrompts())


def test_a_task_takes_a_sample_with_its_truth(prepared):
    entry = {"task": "ranking", "path": str(prepared), "split": "validation", "max_examples": 2}
    sample = parse("tasks", "x", entry).open(prepared, prepared).source
    whole = open_set("", prepared, "validation", ClassPrompts())
    assert len(sample) == 2 < len(whole)
    numbers = [[whole[index] for index in range(len(whole))].index(sample[index]) for index in range(2)]
    np.testing.assert_array_equal(sample.truth.relevance([1, 0]), whole.truth.relevance(numbers[::-1]))


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        (b"no archive", (), "--input: .*x.tgz: .*Expected the .tgz of npm pack @iconify/json"),
        (None, ("--licenses", "WTFPL"), "--licenses: no set of .* has one of WTFPL"),
        (None, ("--size", "4"), "--size: expected 8 to 1024; found 4"),
    ],
)
def test_bad_input_is_one_paragraph(package, tmp_path, capsys, content, options, said):
    path = tmp_path / "x.tgz"
    path.write_bytes(package.read_bytes() if content is None else content)
    with pytest.raises(SystemExit):
        prepare_icons(path, tmp_path / "out", *options)
    assert re.search(said, capsys.readouterr().err)


def test_without_resvg_it_says_what_to_install(package, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    iconify._renderer.cache_clear()
    with pytest.raises(SystemExit):
        prepare_icons(package, tmp_path / "out")
    iconify._renderer.cache_clear()
    assert "Install it with: pip install resvg-py" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_is_evaluated_on_sets_that_it_has_not_seen(prepared, tmp_path):
    tasks = {"style": ("retrieval", "new_style"), "names": ("zero_shot", "classes"), "order": ("ranking", "new_style")}
    flags = [
        f"--config.evaluation.tasks.{name}.{field}={value}"
        for name, (task, split) in tasks.items()
        for field, value in (("task", task), ("path", prepared), ("split", split))
    ]
    said = run("train", "--config", "demo", "--workdir", tmp_path / "run", "--config.train.steps=2",
               "--config.train.global_batch_size=16", "--config.data.source=array_record",
               f"--config.data.train={prepared}", "--config.data.workers=0", *flags).stdout  # fmt: skip
    for name in ("style/retrieval/mean_recall_1", "names/zero_shot/top_1", "order/ranking/ndcg"):
        assert name in said
