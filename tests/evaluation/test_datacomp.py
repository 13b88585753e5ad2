"""The suite `datacomp` against DataComp's own list of tasks and its averages.

Facts of github.com/mlfoundations/datacomp: `tasklist.yml` and `aggregate_scores.py` (commits 4afedc4 and 3ac587e),
`eval_utils/wilds_eval.py` and `fairness_eval.py` for what its metrics' names mean.
"""

import json

import numpy as np
import pytest

from rankclip_jax.evaluation import public_results, suite, suite_run
from rankclip_jax.evaluation.association import association
from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.evaluation.retrieval import Retrieval
from rankclip_jax.evaluation.tasks import Task
from rankclip_jax.evaluation.zero_shot import ZeroShot
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.source import Choice

RECALL = "mean_per_class_recall"
# Key, title, and the main metric where it is not `acc1`.
TASKS = [
    ("vtab/caltech101", "Caltech-101", RECALL),
    ("cifar10", "CIFAR-10", "acc1"),
    ("vtab/cifar100", "CIFAR-100", "acc1"),
    ("vtab/clevr_count_all", "CLEVR Counts", "acc1"),
    ("vtab/clevr_closest_object_distance", "CLEVR Distance", "acc1"),
    ("country211", "Country211", "acc1"),
    ("vtab/dtd", "Describable Textures", "acc1"),
    ("vtab/eurosat", "EuroSAT", "acc1"),
    ("fgvc_aircraft", "FGVC Aircraft", RECALL),
    ("food101", "Food-101", "acc1"),
    ("gtsrb", "GTSRB", "acc1"),
    ("imagenet1k", "ImageNet 1k", "acc1"),
    ("imagenet_sketch", "ImageNet Sketch", "acc1"),
    ("imagenetv2", "ImageNet v2", "acc1"),
    ("imagenet-a", "ImageNet-A", "acc1"),
    ("imagenet-o", "ImageNet-O", "acc1"),
    ("imagenet-r", "ImageNet-R", "acc1"),
    ("vtab/kitti_closest_vehicle_distance", "KITTI Vehicle Distance", "acc1"),
    ("mnist", "MNIST", "acc1"),
    ("objectnet", "ObjectNet", "acc1"),
    ("vtab/flowers", "Oxford Flowers-102", RECALL),
    ("vtab/pets", "Oxford-IIIT Pet", RECALL),
    ("voc2007", "Pascal VOC 2007", "acc1"),
    ("vtab/pcam", "PatchCamelyon", "acc1"),
    ("renderedsst2", "Rendered SST2", "acc1"),
    ("vtab/resisc45", "RESISC45", "acc1"),
    ("cars", "Stanford Cars", "acc1"),
    ("stl10", "STL-10", "acc1"),
    ("sun397", "SUN397", "acc1"),
    ("vtab/svhn", "SVHN", "acc1"),
    ("retrieval/flickr_1k_test_image_text_retrieval", "Flickr", "mean_recall@1"),
    ("retrieval/mscoco_2014_5k_test_image_text_retrieval", "MSCOCO", "mean_recall@1"),
    ("misc/winogavil", "WinoGAViL", "jaccard_score_10-12"),
    ("wilds/iwildcam", "iWildCam", "F1-macro_all"),
    ("wilds/camelyon17", "Camelyon17", "acc1"),
    ("wilds/fmow", "FMoW", "acc_worst_region"),
    ("fairness/dollar_street", "Dollar Street", "acc_top5_wg"),
    ("fairness/geode", "GeoDE", "acc_wg"),
]
# Metrics of WILDS: sklearn's F1 over the classes that occur; the least mean of a group, by the first of what else is
# known of an image (region, income, region), over the groups that occur. DataComp has no names of the groups, so that
# FMoW's "Other" is one of them.
OURS = {
    "F1-macro_all": "zero_shot/f1",
    "acc_worst_region": "zero_shot/worst_group_top_1",
    "acc_top5_wg": "zero_shot/worst_group_top_5",
    "acc_wg": "zero_shot/worst_group_top_1",
}
GROUPS = {
    "ImageNet": {"ImageNet 1k"},
    "ImageNet dist. shifts": {
        "ImageNet Sketch", "ImageNet v2", "ImageNet-A", "ImageNet-O", "ImageNet-R", "ObjectNet",
    },
    "VTAB": {
        "Caltech-101", "CIFAR-100", "CLEVR Counts", "CLEVR Distance", "Describable Textures", "EuroSAT",
        "KITTI Vehicle Distance", "Oxford Flowers-102", "Oxford-IIIT Pet", "PatchCamelyon", "RESISC45", "SVHN",
        "SUN397",
    },
    "Retrieval": {"Flickr", "MSCOCO", "WinoGAViL"},
    "Average": {title for _, title, _ in TASKS},
}  # fmt: skip


@pytest.fixture(scope="module")
def datacomp():
    return suite.read_whole(suite.find(suite.Path("datacomp")))


def test_all_tasks_are_datacomps_with_its_main_metrics(datacomp):
    tasks, _ = datacomp
    found = {(task.name, task.title, task.main_metric or "acc1") for task in tasks}
    assert found == {(key, title, OURS.get(metric, metric)) for key, title, metric in TASKS}
    assert len(tasks) == len(TASKS) == 38
    assert {task.name for task in tasks if task.evaluation == ZeroShot(grouped=True)} == {
        "wilds/fmow",
        "fairness/dollar_street",
        "fairness/geode",
    }
    for task in tasks:
        key = task.name.removeprefix("fairness/").replace("/", "-")  # as its download script names the folders
        assert task.path == ("winogavil" if key == "misc-winogavil" else f"wds_{key}_test")


def test_averages_are_those_that_datacomp_takes_of_the_written_results(datacomp, tmp_path):
    tasks, averages = datacomp
    titles = {task.name: task.title for task in tasks}
    assert {name: {titles[part] for part in parts} for name, parts in averages.items()} == GROUPS
    rng, results = np.random.default_rng(0), {}
    for task in tasks:
        metrics = {"first": 0.0, "acc1": rng.random(), task.main_metric or "acc1": rng.random()}
        metrics = {name: value for name, value in metrics.items() if task.main_metric or name == "acc1"}
        results[task.name] = {"metrics": metrics}
    lines = {task.name: (task.title, results[task.name], task.main_metric) for task in tasks}
    public_results.write_lines(tmp_path / "x.jsonl", lines)
    theirs = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    mains = {line["dataset"]: line["metrics"]["main_metric"] for line in theirs}
    table = suite_run.format_averages(tasks, results, averages)
    for line, (name, group) in zip(table.splitlines(), GROUPS.items(), strict=True):
        assert line.split() == [*name.split(), f"{np.mean([mains[title] for title in group]):.4f}"]
    del results["misc/winogavil"]
    table = suite_run.format_averages(tasks, results, averages).splitlines()
    assert table[3].split() == ["Retrieval", "-", "2", "of", "3", "tasks", "are", "evaluated"]


def test_the_metrics_that_stand_for_datasets_are_measured():
    images = np.eye(13)
    sizes = [5, 6, 10, 12, 12]
    choices = [Choice("a", tuple(range(size)), tuple(number < 2 for number in range(size))) for size in sizes]
    cues = np.stack([images[0] + images[1]] * 4 + [images[0] + images[5]])
    content = public_results.result(
        dataset="w", model="m", pretrained="p", task="association", metrics=association(images, cues, choices),
        provenance={},
    )  # fmt: skip
    assert public_results.main_metric(content, "jaccard_score_10-12") == pytest.approx((1 + 1 + 1 / 3) / 3)
    assert public_results.main_metric(content, "jaccard_score_5-6") == 1


@pytest.mark.parametrize("averages", [[], {"a": "x"}, {"a": ["y"]}])
def test_averages_of_what_is_no_task_are_refused(averages, tmp_path):
    task = {"name": "x", "task": "zero_shot", "format": "webdataset", "path": "x"}
    (tmp_path / "s.json").write_text(json.dumps({"tasks": [task], "averages": averages}))
    with pytest.raises(UserError, match="averages: "):
        suite.read(tmp_path / "s.json")


def test_counts_are_shown_as_numbers():
    task = Task("x", Retrieval(), "retrieval", "x", "webdataset")
    metrics = [
        Metric("retrieval/mean_recall_1", 0.5, public_name="mean_recall@1"),
        *(Metric(f"retrieval/{way}/recall_1", 0.5) for way in ("image_to_text", "text_to_image")),
        Metric("retrieval/text_to_image/chance", 0.001),
        Metric("retrieval/images", 1000, "count"),
        Metric("retrieval/captions", 5000, "count"),
    ]
    content = public_results.result(
        dataset="x", model="m", pretrained="p", task="retrieval", metrics=metrics, provenance={}
    )
    line = suite_run.format_table([task], {"x": content}, {})
    assert line.split()[1:3] == ["0.5000", "mean_recall@1"]
    assert line.endswith("chance 0.0010  images 1,000  captions 5,000")
