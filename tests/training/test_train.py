"""Training as a user starts it: whole commands, their files, their words, and what survives an interruption."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
SMALL = [
    "--config", "configs/demo.py", "--config.train.global_batch_size=16", "--config.train.steps=20",
    "--config.data.validation_examples=64", "--config.checkpoint.every_steps=5", "--config.logging.every_steps=1",
]  # fmt: skip


def environment(devices=1):
    return os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1"}


def run(module, *arguments, devices=1, status=0):
    command = [sys.executable, "-m", f"rankclip_jax.{module}", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(devices), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


def final_parameters(workdir):
    folder = max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    restored = ocp.StandardCheckpointer().restore(folder.absolute() / "default")
    return int(restored["step"]), jax.tree.map(np.asarray, restored)


def read_metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    return workdir, run("train", *SMALL, "--workdir", workdir, "--config.evaluation.every_steps=10").stdout


@pytest.mark.slow
def test_a_run_shows_and_writes_what_it_promises(undisturbed):
    workdir, output = undisturbed
    for word in ("devices:", "mesh:", "parameters", "training pairs", "pairs a step", "steps:", "zero_shot/top_1"):
        assert word in output
    assert re.search(r"step 7/20 +35%  loss [\d.]+  contrastive [\d.]+ .* pairs/s  .* left\n", output)
    steps = [line for line in read_metrics(workdir) if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 21))
    assert {"loss", "contrastive", "cross_modal", "in_modal", "learning_rate", "pairs_per_second"} <= steps[0].keys()
    assert json.loads((workdir / "config.json").read_text())["train"]["steps"] == 20
    results = json.loads((workdir / "evaluation" / "20.json").read_text())
    assert {"zero_shot/top_1", "retrieval/image_to_text/recall_1", "ranking/kendall_tau", "ranking/ndcg",
            "validation/loss"} <= results.keys()  # fmt: skip
    assert (workdir / "evaluation" / "10.json").exists()
    with Image.open(workdir / "report.png") as picture:
        assert picture.width > 800
    assert list((workdir / "tensorboard").glob("events.*"))
    assert len(list((workdir / "checkpoints").iterdir())) == 3


@pytest.mark.slow
def test_a_finished_run_says_so_and_can_be_evaluated_again(undisturbed):
    workdir, _ = undisturbed
    before = final_parameters(workdir)
    assert "This run is finished: 20 steps" in run("train", *SMALL, "--workdir", workdir).stdout
    assert_bit_identical(before, final_parameters(workdir))
    first = json.loads((workdir / "evaluation" / "20.json").read_text())
    assert "zero_shot/top_1" in run("evaluate", "--workdir", workdir).stdout
    assert json.loads((workdir / "evaluation" / "20.json").read_text()) == pytest.approx(first, rel=1e-6)
    assert "there are [10, 15, 20]" in run("evaluate", "--workdir", workdir, "--step=7", status=2).stderr
    assert "there are validation" in run("evaluate", "--workdir", workdir, "--tasks=imagenet", status=2).stderr


def assert_bit_identical(first, second):
    assert first[0] == second[0]
    assert jax.tree.all(jax.tree.map(np.array_equal, first[1], second[1]))


@pytest.mark.slow
@pytest.mark.parametrize(("how", "when"), [(signal.SIGINT, 8), (signal.SIGKILL, 12)], ids=["ctrl-c", "kill"])
def test_an_interrupted_run_ends_with_the_same_parameters(how, when, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    command = [sys.executable, "-m", "rankclip_jax.train", *SMALL, "--workdir", str(workdir), "--config.data.workers=1"]
    lines = []
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        for line in process.stdout:
            lines.append(line)
            if f"step {when}/20" in line:
                os.killpg(process.pid, how)  # as a terminal does: the workers too
        assert process.wait(120) == (130 if how == signal.SIGINT else -signal.SIGKILL)
    if how == signal.SIGINT:
        said = "".join(lines)
        saved = int(re.search(r"Stopped and saved at step (\d+)", said)[1])
        assert when <= saved < 20
        assert "Go on with the same command: python -m rankclip_jax.train --config configs/demo.py" in said
        resumed = f"going on from step {saved}\n"
    else:
        resumed = r"going on from step (5|10|15)\n"
    assert re.search(resumed, run("train", *SMALL, "--workdir", workdir).stdout)
    assert_bit_identical(final_parameters(workdir), final_parameters(undisturbed[0]))
    assert [line["step"] for line in read_metrics(workdir) if "loss" in line] == list(range(1, 21))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 8])
def test_the_number_of_devices_does_not_change_the_losses(devices, undisturbed, tmp_path):
    run("train", *SMALL, "--workdir", tmp_path / "run", devices=devices)
    ours, expected = (
        [line["loss"] for line in read_metrics(path) if "loss" in line] for path in (tmp_path / "run", undisturbed[0])
    )
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.slow
def test_a_run_starts_from_another_runs_weights_with_a_tower_frozen(undisturbed, tmp_path):
    start, workdir = undisturbed[0], tmp_path / "run"
    settings = [*SMALL, f"--config.init_from={start}", "--config.model.frozen=vision", "--config.model.image_size=48",
                "--workdir", workdir]  # fmt: skip
    for other, said in (
        ("activation=gelu", "was trained with quick_gelu"),
        ("learn_logit_bias=True", "has no learned bias"),
        ("name=ViT-S-16", "holds a ViT-demo; the settings describe a ViT-S-16"),
    ):
        assert said in run("train", *settings, f"--config.model.{other}", status=2).stderr
    assert not workdir.exists()
    run("train", *settings)
    before, after = (final_parameters(folder)[1]["parameters"] for folder in (start, workdir))
    position = "positional_embedding"
    assert (before["vision"].pop(position).shape, after["vision"].pop(position).shape) == ((17, 128), (37, 128))
    assert jax.tree.all(jax.tree.map(np.array_equal, before["vision"], after["vision"]))
    assert not np.array_equal(before["text"]["projection"]["kernel"], after["text"]["projection"]["kernel"])


@pytest.fixture
def own_images(tmp_path):
    """A person's folder: forty images listed in a CSV, one of them truncated, and four for validation."""
    for name, indices in (("train", range(40)), ("validation", range(40, 44))):
        rows = ["path;words"]
        for index in indices:
            Image.new("RGB", (60, 50), (index * 5, 100, 200)).save(tmp_path / f"{index}.jpg")
            rows.append(f"{index}.jpg;picture number {index}")
        (tmp_path / f"{name}.csv").write_text("\n".join(rows))
    (tmp_path / "5.jpg").write_bytes(b"\xff\xd8\xff")
    return [
        "--config", "configs/csv.py", f"--config.data.train={tmp_path / 'train.csv'}",
        f"--config.data.validation={tmp_path / 'validation.csv'}", "--config.data.image_key=path",
        "--config.data.caption_key=words", "--config.data.delimiter=;", "--config.model.name=ViT-demo",
        "--config.train.global_batch_size=8", "--config.logging.every_steps=1", "--workdir", str(tmp_path / "run"),
    ]  # fmt: skip


@pytest.mark.slow
def test_a_person_trains_on_their_own_images(own_images, tmp_path):
    done = run("train", *own_images, "--config.train.epochs=2", "--config.data.max_unreadable_share=0.1")
    assert "40 training pairs, 4 validation pairs" in done.stdout
    assert "10 (2.00 epochs)" in done.stdout
    assert f"unreadable record replaced by another: {tmp_path / '5.jpg'}" in done.stderr
    assert read_metrics(tmp_path / "run")[9]["unreadable"] >= 2
    results = json.loads((tmp_path / "run/evaluation/10.json").read_text())
    assert {"validation/loss", "retrieval/text_to_image/recall_10"} <= results.keys()
    assert not any(name.startswith("zero_shot") for name in results)


@pytest.mark.slow
def test_options_of_objectives_combine_by_settings_alone(own_images, tmp_path):
    own_images += ["--config.objective.name=siglip", "--config.train.steps=3", "--config.data.max_unreadable_share=0.1"]
    assert "--config.model.learn_logit_bias=True" in run("train", *own_images, status=2).stderr
    run("train", *own_images, "--config.model.learn_logit_bias=True", "--config.objective.second_view=True",
        "--config.objective.chunk_size=3")  # fmt: skip
    metrics = read_metrics(tmp_path / "run")
    assert {"sigmoid", "second_view", "logit_bias"} <= metrics[0].keys()
    assert metrics[0]["loss"] == pytest.approx((metrics[0]["sigmoid"] + metrics[0]["second_view"]) / 2, rel=1e-5)


@pytest.mark.slow
def test_too_many_unreadable_images_stop_the_run(own_images, tmp_path):
    for index in range(20):
        (tmp_path / f"{index}.jpg").write_bytes(b"broken")
    said = run("train", *own_images, "--config.train.steps=200", status=2).stderr
    assert "records could not be read, more than 1.00%" in said
    assert str(tmp_path / "12.jpg") in said
    assert "Traceback" not in said


BAD = {
    "missing data": (["--config", "configs/cc3m.py"], "data/cc3m.*python -m input_pipeline.prepare"),
    "misspelt key": (["--config", "configs/demo.py", "--config.train.batch_size=8"],
                     r"--config.train.batch_size: no such setting\. Did you mean --config.train.global_batch_size\?"),
    "misspelt section": (["--config", "configs/demo.py", "--config.trian.steps=8"],
                         "Did you mean --config.train.steps"),
    "not a number": (["--config", "configs/demo.py", "--config.train.steps=many"], "train.steps=many"),
    "missing recipe": (["--config", "configs/dmeo.py"], "no file at configs/dmeo.py.*configs/demo.py"),
    "no recipe": ([], "--config: not given"),
    "unknown flag": (["--config", "configs/demo.py", "--workdri=x"], "workdri.*workdir"),
    "unknown model": (["--config", "configs/demo.py", "--config.model.name=ViT-B32"],
                      "no 'ViT-B32'; there are .*ViT-B-32"),
    "no weights": (["--config", "configs/demo.py", "--config.init_from=x.pt"], r"config.init_from: x.pt: nothing"),
    "odd size": (["--config", "configs/demo.py", "--config.model.image_size=50"], "--config.model.image_size=48"),
    "no flash": (["--config", "configs/demo.py", "--config.model.attention=cudnn"], "cudnn needs an NVIDIA GPU"),
    "two lengths": (["--config", "configs/demo.py", "--config.train.steps=3", "--config.train.epochs=3"],
                    "either steps or epochs"),
    "uneven batch": (["--config", "configs/demo.py", "--config.train.global_batch_size=30"],
                     "30 pairs cannot be split evenly over 8 devices.*--config.train.global_batch_size=24"),
    "no csv": (["--config", "configs/csv.py"], "config.data.train: not given"),
    "unwritable": (["--config", "configs/demo.py", "--workdir", "/proc/run"], "/proc/run cannot be written"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_paragraph_and_writes_nothing(name, tmp_path):
    arguments, message = BAD[name]
    workdir = tmp_path / "run"
    extra = [] if "--workdir" in arguments else ["--workdir", workdir]
    done = run("train", *arguments, *extra, devices=8, status=2)
    assert done.stderr.startswith("rankclip_jax: ")
    assert done.stderr.count("\n") == 1
    assert re.search(message, done.stderr), done.stderr
    assert not done.stdout
    assert not workdir.exists()


@pytest.mark.slow
def test_a_workdir_of_another_run_is_refused_and_kept(undisturbed):
    workdir, _ = undisturbed
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    said = run("train", *SMALL, "--workdir", workdir, "--config.seed=1", status=2).stderr
    assert "holds a run with other settings: config.seed: 0 there, 1 now" in said
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before
