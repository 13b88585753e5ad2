"""Every subject beside other work: its figures come with their range, and it concludes nothing."""

import contextlib
import importlib.util

import pytest

from configs import csv, demo
from rankclip_jax.benchmarks import checkpoint, evaluation, loss, search, timing, train
from rankclip_jax.benchmarks import input as input_benchmark
from rankclip_jax.benchmarks.timing import ProcessorTime
from rankclip_jax.distributed.mesh import make_local_mesh
from rankclip_jax.models.presets import PRESETS
from rankclip_jax.training.experiment import build_experiment
from tests.training.conftest import TINY


def recipe(config):
    config.model.name, config.objective.name = "tiny", "clip"
    config.train.update({"global_batch_size": 16, "steps": 10, "epochs": 0})
    return config


def input_of_pictures(folder):
    from PIL import Image

    config, names = recipe(csv.get_config()), [f"{number}.png" for number in range(16)]
    for name in names:
        Image.new("RGB", (40, 40)).save(folder / name)
    (folder / "list.tsv").write_text("filepath\ttitle\n" + "".join(f"{name}\ta picture\n" for name in names))
    config.data.train = str(folder / "list.tsv")
    return input_benchmark.run(config, None, 16, 1e4)


# What each is compared with, or what is left when one is taken from the other.
SUBJECTS = {
    "loss": (
        lambda folder: loss.run(
            ["16"], objective="rankclip", embedding_size=8, variant="exact", chunk_size=0, list_size=0,
            precision="auto", ours_only=False, topology_name=None,
        ),
        "time_against_ours", "milliseconds",
    ),
    "train": (
        lambda folder: train.run(recipe(demo.get_config()), 1, ours_only=True), "time_against_ours", "milliseconds",
    ),
    "input": (input_of_pictures, "ratio", "pairs_per_second_per_core"),
    "checkpoint": (
        lambda folder: checkpoint.run(recipe(demo.get_config()), folder, 1), "checkpoint_seconds", "step_seconds",
    ),
    "evaluation": (
        lambda folder: evaluation.run(recipe(demo.get_config()), 4), "time_against_ours", "images_per_second",
    ),
    "search": (lambda folder: search.run(200, folder), "every_row_against_ours", "milliseconds"),
}  # fmt: skip


CASES = [("loss", 0.0), ("loss", 0.37), ("input", 0.0), ("input", 0.37), ("search", 0.0), ("search", 0.37)]
SLOW = [("train", 0.37), ("checkpoint", 0.37), ("evaluation", 0.37)]


@pytest.mark.parametrize(("subject", "load"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)])
def test_nothing_is_concluded_beside_other_work(subject, load, tmp_path, monkeypatch, capsys):
    readings = iter(range(1000))

    def read():
        number = next(readings)
        return ProcessorTime(2.0 * number, 2.0 * number * load, 0.0)

    monkeypatch.setattr(timing, "read_processor_time", read)
    monkeypatch.setattr(timing, "_LEAST_SECONDS", 0)
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    run, conclusion, figure = SUBJECTS[subject]
    rows = [row for row in run(tmp_path) if "busy" in row]
    assert rows
    said = capsys.readouterr().out
    for row in rows:
        assert row["busy"] == (load > 0)
        assert row["load_of_others"] == pytest.approx(load)
        least, most = row[f"{figure}_range"]
        assert least <= row[figure] <= most
        assert (row[conclusion] is None) == (load > 0)
        assert (row[f"{conclusion}_range"] is None) == (load > 0)
    assert ("other processes used 37% of its CPU time; no conclusion" in said) == (load > 0)


def step_beside_open_clip(folder):
    with train._peer(build_experiment(recipe(demo.get_config()), make_local_mesh(), 10)) as found:
        assert found is None


PEERS = {
    "train": (step_beside_open_clip, "torch and open_clip not installed", "torch open_clip_torch"),
    "input": (input_of_pictures, "torch and torchvision not installed", "torch torchvision"),
    "evaluation": (
        lambda folder: evaluation._peers(recipe(demo.get_config()), folder, contextlib.ExitStack()),
        "torch and open_clip and clip_benchmark not installed", "torch open_clip_torch clip-benchmark",
    ),
}  # fmt: skip


@pytest.mark.parametrize("subject", PEERS)
def test_a_peer_that_is_not_installed_is_said_with_the_command_that_installs_it(subject, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(timing, "read_processor_time", lambda: None)
    monkeypatch.setattr(timing, "_LEAST_SECONDS", 0)
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    real = importlib.util.find_spec
    absent = ("torch", "torchvision", "open_clip", "clip_benchmark")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in absent else real(name, *more))
    compare, what, packages = PEERS[subject]
    compare(tmp_path)
    (note,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: no comparison with")]
    assert what in note
    assert note.endswith(f"pip install {packages}")
