"""The benchmark commands, and what the compiler says of the loss on devices that are not here."""

import importlib.metadata
import importlib.util
import json
import re

import numpy as np
import pytest
from PIL import Image

from rankclip_jax.benchmarks import loss
from rankclip_jax.benchmarks.gpu_experiments import EXPERIMENTS
from tests.commands import run


@pytest.mark.slow
def test_the_straightforward_version_is_the_same_loss(mesh_of):
    from configs import base
    from tests.objectives import numpy_reference as reference

    x, t = (reference.unit_rows(seed, 16, 8).astype(np.float32) for seed in (0, 1))
    config = base.get_config().objective
    for variant in ("exact", "released"):
        config.variant = variant
        ours = loss._ours("rankclip", config, mesh_of(1))(x, t, np.float32(2.5))
        plain = loss._straightforward(variant)(x, t, np.float32(2.5))
        assert ours[0] == pytest.approx(float(plain[0]), rel=1e-5)
        for one, other in zip(ours[1], plain[1], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())


@pytest.mark.slow
def test_the_benchmark_of_a_studys_arms_writes_what_the_study_reads(tmp_path):
    recipe, path = "tests/studies/small_study.py", tmp_path / "costs.json"
    words = ["--config", recipe, "--batch_sizes=16,32", "--steps=1", f"--json={path}"]
    said = run("benchmark", "objectives", *words).stdout
    assert len(re.findall(r"^(clip|student) .* x the baseline's; loss", said, re.MULTILINE)) == 4
    rows = json.loads(path.read_text())
    assert [(row["arm"], row["global_batch_size"]) for row in rows] == [
        ("clip", 16), ("student", 16), ("clip", 32), ("student", 32)
    ]  # fmt: skip
    for row in rows:
        low, high = row["loss_milliseconds_range"]
        assert 0 < low <= row["loss_milliseconds"] <= high


@pytest.mark.slow
def test_the_loss_benchmark_prints_a_table_and_writes_json(tmp_path):
    path = tmp_path / "loss.json"
    output = run("benchmark", "loss", "--batch_sizes=64,128", "--embedding_size=16", f"--json={path}", devices=2).stdout
    assert output.count("2 device(s)") == 4
    rows = json.loads(path.read_text())
    assert [(row["version"], row["batch_size"]) for row in rows] == [
        ("rankclip_jax", 64), ("straightforward", 64), ("rankclip_jax", 128), ("straightforward", 128),
    ]  # fmt: skip
    assert all(row["milliseconds"] > 0 and row["temporary_gib"] > 0 for row in rows)


def test_benchmark_says_what_it_cannot_measure():
    said = run("benchmark", status=2).stderr
    assert "found none. Choose from loss, objectives, train, input, checkpoint, evaluation, search, gpu." in said
    assert "unknown value 'clap'; choose from clip" in run("benchmark", "loss", "--objective=clap", status=2).stderr
    assert "expected multiples of 8" in run("benchmark", "loss", "--batch_sizes=9", devices=8, status=2).stderr
    assert "found 'h200'" in run("benchmark", "loss", "--topology=h200", status=2).stderr


@pytest.mark.slow
def test_the_checkpoint_benchmark_tells_what_one_costs_and_leaves_nothing(tmp_path):
    path, place = tmp_path / "rows.json", tmp_path / "place"
    place.mkdir()
    flags = ["--config=demo", "--config.train.global_batch_size=16", "--steps=2", f"--folder={place}", f"--json={path}"]
    said = run("benchmark", "checkpoint", *flags).stdout
    (row,) = json.loads(path.read_text())
    assert "ViT-demo: a checkpoint of" in said
    assert row["gib"] > 0.01  # 7.6 million parameters, and what the optimiser remembers
    extra = row["checkpoint_seconds"] or 0.0
    assert row["share_of_training"] == concluded(row, extra / (80 * row["step_seconds"]))
    assert min(row[name] for name in ("step_seconds", "verify_seconds", "restore_seconds")) > 0
    assert not list(place.iterdir())
    said = run("benchmark", "checkpoint", "--config=demo", "--folder=/nowhere", status=2).stderr
    assert "--folder: no folder at /nowhere" in said


@pytest.mark.slow
def test_the_evaluation_benchmark_classifies_the_same_files(tmp_path):
    path = tmp_path / "rows.json"
    said = run("benchmark", "evaluation", "--config=demo", "--images=16", f"--json={path}").stdout
    rows = json.loads(path.read_text())  # ours in float32 and in bfloat16
    assert len(rows) == 2
    assert all(row["images_per_second"] > 0 for row in rows)
    if importlib.util.find_spec("open_clip") and importlib.util.find_spec("clip_benchmark"):
        assert "open_clip has no model ViT-demo" in said


@pytest.mark.slow
def test_the_search_benchmark_finds_what_is_nearest_and_leaves_nothing(tmp_path):
    (tmp_path / "place").mkdir()
    path = tmp_path / "rows.json"
    run("benchmark", "search", "--rows=2000", f"--folder={tmp_path / 'place'}", f"--json={path}")
    (row,) = json.loads(path.read_text())
    assert row["found"] == 1  # of few rows all are compared
    assert row["milliseconds"] > 0
    assert not list((tmp_path / "place").iterdir())


def concluded(row, value):
    """What a row says of a comparison: nothing, where other processes were at work meanwhile."""
    return None if row["busy"] else pytest.approx(value)


def has(package):
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.mark.skipif(not has("jax-cuda13-plugin"), reason='needs pip install "jax[cuda13]"')
@pytest.mark.parametrize(
    ("topology", "batch_size", "gib"),
    [("h200:1x1", 32_768, 0.45), ("h200:1x8", 32_768, 0.40), ("h200:8x8", 32_768, 0.40), ("h200:64x8", 262_144, 3.0)],
)
def test_the_loss_fits_its_memory_on_devices_that_are_not_here(topology, batch_size, gib, tmp_path):
    path = tmp_path / "loss.json"
    run("benchmark", "loss", f"--topology={topology}", f"--batch_sizes={batch_size}", "--ours_only", f"--json={path}")
    (row,) = json.loads(path.read_text())
    assert row["temporary_gib"] <= gib
    embeddings = 2 * batch_size * 512 * 4
    for traffic in row["collectives"]:
        assert traffic["bytes"] <= 1.01 * embeddings + 64


def test_the_input_benchmark_measures_every_stage_and_pytorch(tmp_path):
    rows = ["filepath,title"]
    for number in range(40):
        Image.new("RGB", (60, 50), (number, 9, 9)).save(tmp_path / f"{number}.jpg")
        rows.append(f"{number}.jpg,picture {number}")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    said = run("benchmark", "input", "--config", "configs/csv.py", f"--config.data.train={tmp_path / 'list.csv'}",
               "--config.data.delimiter=,", "--config.train.global_batch_size=16", "--config.data.flip=0.5",
               "--config.model.name=ViT-demo", "--pairs=64", "--rate=5000", "--json", tmp_path / "x.json")  # fmt: skip
    assert re.search(r"5,000 pairs/s need \d+ such cores", said.stdout)
    found = {row.get("stage") or row["loader"]: row for row in json.loads((tmp_path / "x.json").read_text())}
    stages = {"read", "decode and crop", "augment", "tokenise", "batch", "transfer"}
    assert stages | {"rankclip_jax"} <= found.keys()
    if importlib.util.find_spec("torchvision"):
        ours, theirs = (found[name]["pairs_per_second_per_core"] for name in ("rankclip_jax", "pytorch"))
        assert found["pytorch"]["ratio"] == concluded(found["pytorch"], ours / theirs)
    assert "--pairs: expected at least one batch, 256" in run(
        "benchmark", "input", "--config", "configs/csv.py", f"--config.data.train={tmp_path / 'list.csv'}",
        "--config.data.delimiter=,", "--pairs=64", status=2).stderr  # fmt: skip


@pytest.mark.slow
def test_everything_is_measured_in_small_and_each_result_is_there_at_once(tmp_path):
    """The first experiments on CPUs; and where the time is up, the rest is named."""
    said = run("benchmark", "gpu", "--minutes=1.5", f"--output={tmp_path}").stdout
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    lines = (tmp_path / "results.md").read_text().splitlines()
    assert lines == [f"- {row['summary']}" for row in rows]
    found = {row["experiment"]: row for row in rows}
    assert {"device", "golden", "attention", "ViT-B-32"} <= found.keys()
    assert found["golden"]["error"] < 1e-5
    assert found["attention"]["errors"]["xla"] < 0.05
    assert found["ViT-B-32"]["milliseconds"] > 0
    assert found["ViT-B-32"]["needed_gib"] > 0
    assert all(row["summary"] in said or "not finished" in row["summary"] for row in rows)


def test_an_experiment_that_does_not_end_is_ended_and_the_rest_are_named(tmp_path):
    said = run("benchmark", "gpu", "--minutes=0.02", f"--output={tmp_path}").stdout
    (ended,) = re.findall(r"- (\w+): not finished, out of time", (tmp_path / "results.md").read_text())
    names = list(EXPERIMENTS)
    assert f"not finished: {', '.join(names[names.index(ended) :])}" in said
    error = run("benchmark", "gpu", "--experiment=x", f"--output={tmp_path}", status=2).stderr
    assert "--experiment: unknown value 'x'; choose from device, golden" in error
