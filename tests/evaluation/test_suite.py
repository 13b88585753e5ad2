"""Suites by command, against CLIP_benchmark on the exported model; what is kept, what is left out and why."""

import json
import os
import re
import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import jaccard_score

from rankclip_jax.evaluation import suite_run
from rankclip_jax.evaluation.tasks import Task
from rankclip_jax.evaluation.zero_shot import ZeroShot
from rankclip_jax.input_pipeline.evaluation_sets import open_set
from rankclip_jax.input_pipeline.evaluation_sets.wording import ClassPrompts
from tests.commands import run
from tests.evaluation import layouts
from tests.interop.conftest import make_run, open_clip, torch  # noqa: F401  (fixtures)
from tests.launch.test_launch import launch

TASKS = (
    {"name": "shapes", "task": "zero_shot", "format": "webdataset", "path": "shapes", "title": "Shapes"},
    {"name": "several", "task": "zero_shot", "format": "webdataset", "path": "several"},
    {"name": "captions", "task": "retrieval", "format": "webdataset", "path": "captions"},
    {"name": "swap", "task": "compositionality", "format": "sugar_crepe", "path": "crepe", "split": "swap_att"},
    {"name": "probe", "task": "linear_probe", "format": "webdataset", "path": "shapes"},
    {"name": "choose", "task": "association", "format": "winogavil", "path": "choose"},
    {"name": "agree", "task": "consistency", "format": "webdataset", "path": "captions"},
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run, its export, datasets and a suite."""
    folder = tmp_path_factory.mktemp("suite")
    make_run(folder / "run")
    layouts.classification(folder / "data" / "shapes")
    layouts.multilabel(folder / "data" / "several")
    layouts.captions(folder / "data" / "captions")
    layouts.sugar_crepe(folder / "data" / "crepe")
    layouts.winogavil(folder / "data" / "choose")
    layouts.suite(folder / "suite.json", *TASKS)
    return folder


def evaluate(place, *words, model=True, devices=1, status=0):
    named = ["--model", place / "demo.safetensors"] if model else ["--workdir", place / "run"]
    return run("evaluate", *named, "--suite", place / "suite.json", "--data", place / "data", *words, devices=devices,
               status=status)  # fmt: skip


@pytest.fixture(scope="module")
def exported(place):
    said = run("export", "--workdir", place / "run", "--format", "open_clip", "--output", place / "demo.safetensors")
    done = evaluate(place, "--output", place / "out")
    results = {task["name"]: json.loads((place / "out" / f"{task['name']}.json").read_text()) for task in TASKS}
    return said.stdout, done.stdout, results


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the library compared with
def test_figures_are_clip_benchmarks_on_the_exported_model(place, exported, open_clip, torch, monkeypatch):  # noqa: F811
    zeroshot = pytest.importorskip("clip_benchmark.metrics.zeroshot_classification")

    def accuracy(logits, target, topk):  # its own makes numbers of arrays in a way that NumPy does not take any more
        best = logits.topk(max(topk), dim=1).indices == target[:, None]
        return [best[:, :k].any(dim=1).double().mean().item() for k in topk]

    monkeypatch.setattr(zeroshot, "accuracy", accuracy)
    from clip_benchmark.datasets.builder import build_wds_dataset, image_captions_collate_fn
    from clip_benchmark.metrics import image_caption_selection, zeroshot_retrieval

    said, _, results = exported
    line = next(line for line in said.splitlines() if line.startswith("open_clip.add_model_config("))
    scope = {"open_clip": open_clip}
    exec(line.replace('"demo.safetensors"', repr(str(place / "demo.safetensors"))), scope)
    model, transform = scope["model"].eval(), scope.get("preprocess")
    if transform is None:
        transform = open_clip.image_transform_v2(open_clip.get_model_preprocess_cfg(model), is_train=False)
    tokenizer = open_clip.get_tokenizer("rankclip-ViT-demo")

    def loader(name, collate=None):
        dataset = build_wds_dataset(name, transform, split="test", data_dir=str(place / "data" / name))
        loader = torch.utils.data.DataLoader(dataset.batched(8), batch_size=None)
        loader.dataset.classes, loader.dataset.templates = dataset.classes, dataset.templates
        if collate:
            loader = torch.utils.data.DataLoader(dataset, batch_size=8, collate_fn=collate)
        return loader

    for name in ("shapes", "several"):
        data = loader(name)
        classes, templates = data.dataset.classes, data.dataset.templates
        expected = zeroshot.evaluate(model, data, tokenizer, classes, templates, "cpu", amp=False)
        found = {metric: results[name]["metrics"][metric] for metric in expected}
        assert found == pytest.approx(expected, abs=1e-6), name
    data = loader("captions", image_captions_collate_fn)
    expected = zeroshot_retrieval.evaluate(model, data, tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10])
    assert {metric: results["captions"]["metrics"][metric] for metric in expected} == pytest.approx(expected, abs=1e-6)

    entries = json.loads((place / "data" / "crepe" / "swap_att.json").read_text()).values()
    pairs = [(Image.open(place / "data" / "crepe" / "images" / one["filename"]), one) for one in entries]
    batches = [(transform(image)[None], [[one["caption"], one["negative_caption"]]]) for image, one in pairs]
    expected = image_caption_selection.evaluate(model, batches, tokenizer, "cpu", amp=False)
    assert results["swap"]["metrics"]["acc"] == pytest.approx(expected["acc"], abs=1e-6)

    choose = open_set("winogavil", place / "data" / "choose", "test", ClassPrompts())
    with torch.no_grad():
        images = model.encode_image(torch.stack([transform(Image.open(path)) for path in choose.paths]), normalize=True)
        cues = model.encode_text(tokenizer([choice.cue for choice in choose.truth.choices]), normalize=True)
    scores = []
    for choice, cue in zip(choose.truth.choices, cues, strict=True):
        right = np.asarray(choice.right)
        closest = (images[list(choice.images)] @ cue).argsort()[-right.sum() :].numpy()
        scores.append(jaccard_score(right, np.isin(np.arange(len(right)), closest)))
    assert results["choose"]["metrics"]["avg_jaccard_score"] == pytest.approx(np.mean(scores), abs=1e-6)


@pytest.mark.slow
def test_results_are_in_the_forms_that_others_read(place, exported):
    _, said, results = exported
    shapes = results["shapes"]
    assert {"dataset", "model", "pretrained", "task", "metrics", "language"} <= shapes.keys()
    assert (shapes["task"], results["captions"]["task"]) == ("zeroshot_classification", "zeroshot_retrieval")
    lines = [json.loads(line) for line in (place / "out" / "eval_results.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines] == [task["name"] for task in TASKS]
    assert lines[0]["dataset"] == "Shapes"
    assert shapes["model"] == "rankclip-ViT-demo"  # as open_clip calls the export, and so CLIP_benchmark its rows
    assert lines[0]["metrics"]["main_metric"] == shapes["metrics"]["acc1"]
    assert lines[1]["metrics"]["main_metric"] == results["several"]["metrics"]["mean_average_precision"]
    both = [results["captions"]["metrics"][f"{way}_retrieval_recall@1"] for way in ("image", "text")]
    assert lines[2]["metrics"]["main_metric"] == pytest.approx(np.mean(both))
    assert re.search(r"shapes +0\.\d{4}  acc1 0\.\d{4}", said)


def damage(tar, after):
    """Zeros in place of the first image, ``after`` bytes into it."""
    content = bytearray(tar.read_bytes())
    content[512 + after : 512 + after + 64] = bytes(64)
    tar.write_bytes(content)


@pytest.mark.slow
def test_an_image_that_cannot_be_read_counts_as_wrong_and_is_said(place, exported, tmp_path):
    for name in ("shapes", "captions", "several"):
        shutil.copytree(place / "data" / name, tmp_path / "data" / name)
        damage(tmp_path / "data" / name / "test" / "0.tar", after=0)
    words = ("evaluate", "--model", place / "demo.safetensors", "--suite", place / "suite.json", "--data",
             tmp_path / "data", "--output", tmp_path / "out", "--tasks", "shapes,captions,several,probe")  # fmt: skip
    for attempt in range(2):
        done = run(*words)
        for name in ("shapes", "captions", "several", "probe"):
            assert f"warning: {name}: 1 unreadable images count as wrong" in done.stdout
        assert ("according to an existing result" in done.stdout) == (attempt > 0)
    lines = {}
    for line in (tmp_path / "out" / "eval_results.jsonl").read_text().splitlines():
        lines |= {json.loads(line)["key"]: json.loads(line)["metrics"]}
    count = layouts.COUNT
    for name, metric in (
        ("shapes", "acc1"), ("shapes", "acc5"), ("captions", "text_retrieval_recall@1"), ("probe", "lp_acc1"),
    ):  # fmt: skip
        found = json.loads((tmp_path / "out" / f"{name}.json").read_text())["metrics"]
        assert found["unreadable_images"] == lines[name]["unreadable_images"] == 1
        hits, before = found[metric] * count, exported[2][name]["metrics"][metric] * count
        assert hits == pytest.approx(round(hits), abs=1e-4), "of all images"
        assert round(before - hits) in (0, 1)
    assert lines["captions"]["retrieval/images"] == count


@pytest.mark.slow
def test_devices_and_processes_do_not_change_them_and_what_was_measured_is_kept(place, exported):
    done = evaluate(place, "--output", place / "eight", devices=8)
    for task in TASKS:
        found = json.loads((place / "eight" / f"{task['name']}.json").read_text())
        assert found["metrics"] == pytest.approx(exported[2][task["name"]]["metrics"], abs=2e-6), task["name"]
    words = ["-m", "rankclip_jax.evaluate", "--model", place / "demo.safetensors", "--suite", place / "suite.json",
             "--data", place / "data", "--output", place / "two"]  # fmt: skip
    launch("local.sh", "2", "env", "JAX_PLATFORMS=cpu", "JAX_NUM_CPU_DEVICES=1", sys.executable, *map(str, words))
    for task in TASKS:
        found = json.loads((place / "two" / f"{task['name']}.json").read_text())
        assert found["metrics"] == pytest.approx(exported[2][task["name"]]["metrics"], abs=2e-6), task["name"]
    path = place / "eight" / "captions.json"
    path.unlink()
    damaged = place / "eight" / "swap.json"
    damaged.write_text(damaged.read_text()[:-20])
    again = evaluate(place, "--output", place / "eight", devices=8)
    assert set(re.findall(r"\d/7 (\w+):", again.stdout)) == {"captions", "swap"}
    assert len(set(re.findall(r"\d/7 (\w+):", done.stdout))) == len(TASKS)
    assert path.exists()
    assert json.loads(damaged.read_text())["metrics"] == pytest.approx(exported[2]["swap"]["metrics"], abs=2e-6)


def test_a_result_is_of_its_data(tmp_path):
    """Other sentences, another label or another image of as many: what was measured before is not theirs."""
    layouts.classification(tmp_path / "shapes")
    task = Task("shapes", ZeroShot(), "zero_shot", "shapes", "webdataset")

    def provenance():
        data = task.open(tmp_path, tmp_path)
        return suite_run._provenance(task, data, tmp_path / "shapes", suite_run.Identity("demo", "here", "0"))

    first = provenance()
    assert provenance() == first
    for name in ("classnames.txt", "zeroshot_classification_templates.txt", "test/0.tar"):
        file, before = tmp_path / "shapes" / name, provenance()
        content = bytearray(file.read_bytes())
        place = 600 if file.suffix == ".tar" else content.index(b"a")  # within an image; of a word
        content[place] ^= 3
        file.write_bytes(content)
        os.utime(file, ns=(1, 1))
        assert provenance() != before, name


def test_progress_is_told_in_a_terminal_alone(capsys, monkeypatch):
    suite_run._progress("1/2 shapes")(50, 200)
    assert not capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    tell = suite_run._progress("1/2 shapes")
    tell(0, 200)
    tell(50, 200)
    assert re.fullmatch(r"\r\x1b\[K1/2 shapes: 50 of 200 images \(25%\), .* images/s, .* left", capsys.readouterr().out)


@pytest.mark.slow
def test_a_run_is_measured_too_and_its_other_results_stay(place, exported):
    results = place / "run" / "evaluation" / "0.json"
    results.parent.mkdir(exist_ok=True)
    results.write_text('{"validation/loss": 1.5}')
    said = evaluate(place, "--tasks", "captions", model=False).stdout
    assert "step 0" in said
    flat = json.loads(results.read_text())
    assert flat["validation/loss"] == 1.5
    expected = exported[2]["captions"]["metrics"]["image_retrieval_recall@5"]
    assert flat["captions/image_retrieval_recall@5"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_what_cannot_be_measured_is_said_before_and_the_others_go_on(place, exported, tmp_path):
    shutil.copytree(place / "data" / "several", tmp_path / "data" / "ragged")
    image = layouts.encoded(layouts.scenes()[0]["image"])
    shutil.rmtree(tmp_path / "data" / "ragged" / "test")
    labels = ([0] * 6, [0] * 5)
    layouts.write_tars(
        tmp_path / "data" / "ragged" / "test", [{"png": image, "npy": layouts.array(row)} for row in labels]
    )
    for name in ("missing_tar", "outside", "nameless", "one", "placeless", "cut", "ungrouped"):
        shutil.copytree(place / "data" / "shapes", tmp_path / "data" / name)
    data = tmp_path / "data"
    shutil.copytree(place / "data" / "captions", data / "captions")
    (data / "missing_tar" / "test" / "1.tar").unlink()
    (data / "outside" / "classnames.txt").write_text("a\nb\nc")
    (data / "nameless" / "classnames.txt").unlink()
    (data / "one" / "classnames.txt").write_text("only")
    (data / "placeless" / "zeroshot_classification_templates.txt").write_text("a photo")
    tar = data / "cut" / "test" / "2.tar"
    tar.write_bytes(tar.read_bytes()[:2000])
    names = ("gone", "missing_tar", "outside", "nameless", "one", "placeless", "cut", "captions", "ragged")
    task = {"task": "zero_shot", "format": "webdataset"}
    layouts.suite(tmp_path / "suite.json", *({"name": name, "path": name, **task} for name in names),
                  {"name": "ungrouped", **task, "path": "ungrouped", "grouped": True},
                  {"name": "pairs", "task": "retrieval", "format": "webdataset", "path": "captions",
                   "shared_captions": True})  # fmt: skip
    done = run("evaluate", "--model", place / "demo.safetensors", "--suite", tmp_path / "suite.json", "--data", data,
               "--output", tmp_path / "out", status=1)  # fmt: skip
    for word in ("gone: nothing at", "missing_tar: .*/1.tar: missing, with 1 of 3",
                 "outside: .* 3 class names.* the label 3",
                 "nameless: no class names", "one: expected at least two classes; found one, 'only'",
                 "placeless: .*'a photo' has no pl",
                 "cut: .*2.tar: ",
                 "ragged: .*has 5 labels; expected 6, as for the first image",
                 "captions: expected images with labels; found images with captions only",
                 "ungrouped: grouped: expected a dataset with groups"):  # fmt: skip
        assert re.search(f"skipped: {word}", done.stdout), word
    assert done.stdout.index("skipped: captions") < done.stdout.index("11/11 pairs")
    assert (tmp_path / "out" / "pairs.json").exists()
    assert "5 labels" in json.loads((tmp_path / "out" / "ragged.json").read_text())["error"]
    assert "Traceback" not in done.stdout + done.stderr
