"""Training as a user starts it: whole commands, their words, and what survives an interruption."""

import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from PIL import Image

from tests.commands import ROOT, environment, run
from tests.training.conftest import (
    SMALL_FLAGS,
    assert_bit_identical,
    final_state,
    read_metrics,
    read_results,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def by_command(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("command") / "run"
    return workdir, run("train", *SMALL_FLAGS, "--workdir", workdir, "--config.evaluation.every_steps=10").stdout


def test_a_run_shows_and_writes_what_it_promises(by_command):
    workdir, output = by_command
    for word in ("devices:", "mesh:", "parameters", "32 x 32 pixels, 16 patches of 8 x 8", "24 tokens",
                 "training pairs", "pairs per step", "steps:", "zero_shot/top_1", "compiling the training step",
                 "compiled in", "evaluating on 64 held-out pairs"):  # fmt: skip
        assert word in output
    assert re.search(r"step 7/20 +35%  loss [\d.]+  contrastive [\d.]+ .* pairs/s  .* left\n", output)
    steps = [line for line in read_metrics(workdir) if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 21))
    assert {"loss", "contrastive", "cross_modal", "in_modal", "learning_rate", "pairs_per_second"} <= steps[0].keys()
    assert {"zero_shot/top_1", "retrieval/image_to_text/recall_1", "ranking/kendall_tau", "ranking/ndcg",
            "validation/loss"} <= read_results(workdir, 20).keys()  # fmt: skip
    assert (workdir / "evaluation" / "10.json").exists()
    with Image.open(workdir / "report.png") as picture:
        assert picture.width > 800
    assert list((workdir / "tensorboard").glob("events.*"))
    assert len(list((workdir / "checkpoints").iterdir())) == 3


def test_evaluating_one_task_keeps_the_others_results(by_command):
    workdir = by_command[0]
    before = read_results(workdir, 10)
    said = run("evaluate", "--workdir", workdir, "--step=10", "--tasks=retrieval", devices=8).stdout
    assert "zero_shot" not in said
    assert read_results(workdir, 10) == pytest.approx(before, rel=1e-5, abs=1e-5)
    assert "choose from [10, 15, 20]" in run("evaluate", "--workdir", workdir, "--step=7", status=2).stderr
    assert "choose from validation" in run("evaluate", "--workdir", workdir, "--tasks=imagenet", status=2).stderr


def test_verify_says_which_checkpoint_is_intact(by_command, tmp_path):
    shutil.copytree(by_command[0], tmp_path / "run")
    said = run("verify", "--workdir", tmp_path / "run").stdout
    assert [line.split(",")[0] for line in said.splitlines()] == [f"step {step}: intact" for step in (10, 15, 20)]
    path = tmp_path / "run" / "checkpoints" / "15" / "default" / "_METADATA"
    path.write_bytes(path.read_bytes()[:-1])
    said = run("verify", "--workdir", tmp_path / "run", status=1).stdout
    assert f"step 15: CORRUPT\n  {path} is altered or truncated\nstep 20: intact" in said
    assert "15 is corrupt" in run("evaluate", "--workdir", tmp_path / "run", "--step=15", status=2).stderr
    assert "choose from [10, 15, 20]" in run("verify", "--workdir", tmp_path / "run", "--step=7", status=2).stderr


@pytest.mark.parametrize(("how", "when"), [(signal.SIGINT, 8), (signal.SIGKILL, 12)], ids=["ctrl-c", "kill"])
def test_an_interrupted_run_ends_with_the_same_parameters(how, when, by_command, tmp_path):
    workdir = tmp_path / "run"
    command = [
        sys.executable, "-m", "rankclip_jax.train", *SMALL_FLAGS, "--workdir", str(workdir), "--config.data.workers=1",
    ]  # fmt: skip
    lines = []
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        for line in process.stdout:
            lines.append(line)
            if f"step {when}/20" in line:
                os.killpg(process.pid, how)  # as a terminal does: the workers too
        assert process.wait(120) == (130 if how == signal.SIGINT else -signal.SIGKILL)
    if how == signal.SIGINT:
        said = "".join(lines)
        saved = int(re.search(r"Stopped and saved at step (\d+)", said)[1])
        assert when <= saved < 20
        assert said.index("Stopping: finishing and saving the current step first") < said.index("Stopped and saved")
        assert "Resume with the same command: python -m rankclip_jax.train --config configs/demo.py" in said
        resumed = f"resuming from step {saved}\n"
    else:
        resumed = r"resuming from step (5|10|15)\n"
    assert re.search(resumed, run("train", *SMALL_FLAGS, "--workdir", workdir).stdout)
    assert_bit_identical(final_state(workdir), final_state(by_command[0]))
    assert [line["step"] for line in read_metrics(workdir) if "loss" in line] == list(range(1, 21))


@pytest.mark.parametrize("moment", ["start", "twice"])
def test_ctrl_c_never_shows_a_traceback(moment, tmp_path):
    command = [sys.executable, "-m", "rankclip_jax.train", *SMALL_FLAGS, "--workdir", str(tmp_path / "run"),
               "--config.train.steps=100000", "--config.checkpoint.every_steps=100000"]  # fmt: skip
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("devices:" if moment == "start" else "step 3/"):
                process.send_signal(signal.SIGINT)
            if line.startswith("Stopping:"):
                process.send_signal(signal.SIGINT)
        status = process.wait(120)
    assert status == 130
    assert "Traceback" not in "".join(said)
    assert "stopped at once" in "".join(said) or (moment == "twice" and "Stopped and saved" in "".join(said))
    assert not (tmp_path / "run").exists() or moment == "twice"


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
        "--config", "csv_small", f"--config.data.train={tmp_path / 'train.csv'}",
        f"--config.data.validation={tmp_path / 'validation.csv'}", "--config.data.image_key=path",
        "--config.data.caption_key=words", "--config.data.delimiter=;", "--config.model.image_size=32",
        "--config.train.global_batch_size=8", "--config.logging.every_steps=1", "--workdir", str(tmp_path / "run"),
    ]  # fmt: skip


def test_a_person_trains_on_their_own_images(own_images, tmp_path):
    done = run("train", *own_images, "--config.train.epochs=2", "--config.data.max_unreadable_fraction=0.1")
    assert "40 training pairs, 4 validation pairs" in done.stdout
    assert "10 (2.00 epochs)" in done.stdout
    assert f"\nunreadable record replaced by another: {tmp_path / '5.jpg'}" in "\n" + done.stderr
    assert read_metrics(tmp_path / "run")[9]["unreadable"] >= 2
    results = read_results(tmp_path / "run", 10)
    assert {"validation/loss", "retrieval/text_to_image/recall_10"} <= results.keys()
    assert not any(name.startswith("zero_shot") for name in results)
    (tmp_path / "run" / "evaluation" / "10.json").write_text("{}")
    run("evaluate", "--workdir", tmp_path / "run", devices=8)  # fewer pairs than devices
    assert read_results(tmp_path / "run", 10) == pytest.approx(results, rel=1e-5, abs=1e-5)


def test_too_many_unreadable_images_stop_the_run(own_images, tmp_path):
    for index in range(20):
        (tmp_path / f"{index}.jpg").write_bytes(b"broken")
    said = run("train", *own_images, "--config.train.steps=200", status=2).stderr
    assert "records could not be read, more than 1.00%" in said
    assert str(tmp_path / "12.jpg") in said
    assert "Traceback" not in said


DEMO = ["--config", "configs/demo.py"]
BAD = {
    "missing data": (["--config", "configs/cc3m.py"], "data/cc3m.*python -m rankclip_jax.input_pipeline.prepare"),
    "misspelt key": ([*DEMO, "--config.train.batch_size=8"],
                     r"--config.train.batch_size: unknown setting\. Did you mean --config.train.global_batch_size\?"),
    "not a number": ([*DEMO, "--config.train.steps=many"], "train.steps=many"),
    "missing recipe": (["--config", "configs/dmeo.py"], "no file at configs/dmeo.py.*configs/demo.py"),
    "no recipe": ([], "--config: not given"),
    "unknown flag": ([*DEMO, "--workdri=x"], "workdri.*workdir"),
    "empty workdir": ([*DEMO, "--workdir="], "--workdir: empty. Omit the flag for the default, runs/demo"),
    "unwritable": ([*DEMO, "--workdir", "/proc/run"], "/proc/run cannot be written"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_flags_get_one_paragraph_and_write_nothing(name, tmp_path):
    arguments, message = BAD[name]
    workdir = tmp_path / "run"
    extra = [] if any("--workdir" in argument for argument in arguments) else ["--workdir", workdir]
    done = run("train", *arguments, *extra, devices=8, status=2)
    assert done.stderr.startswith("rankclip_jax: ")
    assert done.stderr.count("\n") == 1
    assert re.search(message, done.stderr), done.stderr
    assert not done.stdout
    assert not workdir.exists()
