"""Parts of one's own as docs/extending.md shows them: one file each, named by a dotted path."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.commands import ROOT, environment

TEXT = (ROOT / "docs" / "extending.md").read_text(encoding="utf8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder with the files of the page."""
    place = tmp_path_factory.mktemp("mine")
    files = re.findall(r"`(my_\w+\.py)`:\n\n```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(files) == 7
    for name, content in files:
        (place / name).write_text(content)
    return place


def train(folder, name, *flags, recipe="demo", status=0):
    command = [sys.executable, "-m", "rankclip_jax.train", "--config", recipe, "--config.train.steps=3",
               "--config.train.global_batch_size=16", "--config.data.validation_examples=32", "--config.data.workers=0",
               "--config.logging.every_steps=1", "--config.checkpoint.every_steps=2",
               "--workdir", name, *flags]  # fmt: skip
    done = start(folder, command)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def python(folder, script):
    return start(folder, [sys.executable, "-c", script])


def start(folder, command):
    environ = environment() | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=300, check=False)


def logged_lines(folder, name):
    return [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]


def logged(folder, name):
    return [line for line in logged_lines(folder, name) if "pairs_per_second" in line]


@pytest.mark.slow
def test_an_objective_with_an_option_is_one_file(folder):
    name = "--config.objective.name=my_objectives:Margin"
    train(folder, "margin", name, "--config.objective.margin=0.3")
    assert json.loads((folder / "margin" / "config.json").read_text())["objective"]["margin"] == 0.3
    assert "at most 1; found 3.0" in train(folder, "other", name, "--config.objective.margin=3", status=2)
    assert "Did you mean --config.objective.margin?" in train(
        folder, "o", name, "--config.objective.marign=3", status=2
    )
    said = train(folder, "margin", name, "--config.objective.margin=0.2", status=2)
    assert "config.objective.margin: 0.3 stored, 0.2 now" in said


@pytest.mark.slow
def test_an_objective_of_ones_own_is_an_arm_of_a_study(folder):
    page = (ROOT / "docs" / "study.md").read_text(encoding="utf8")
    (folder / "my_study.py").write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1])
    flags = ["--config.data.source=scenes", "--config.data.train=", "--config.data.validation=",
             "--config.train.steps=2", "--config.train.global_batch_size=16",
             "--config.data.train_examples=64", "--config.data.validation_examples=32"]  # fmt: skip
    command = [sys.executable, "-m", "rankclip_jax.study", "--config", "my_study.py", "--workdir", "study"]
    done = start(folder, [*command, *flags, "--run", "mine/tune2"])
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = (folder / "study" / "results.jsonl").read_text().splitlines()
    assert json.loads(line)["settings"] == {"objective.name": "my_objectives:Margin", "optimizer.learning_rate": 0.002}
    assert (
        "'mine/seed1' is unknown, or depends on runs without a result"
        in start(folder, [*command, *flags, "--run", "mine/seed1"]).stderr
    )


@pytest.mark.slow
def test_an_objective_on_token_features_has_a_head_that_is_trained_and_saved(folder):
    name = "--config.objective.name=my_captioning:WithWords"
    train(folder, "words", name)
    losses = [line["words"] for line in logged(folder, "words")]
    assert losses[-1] < losses[0]
    import orbax.checkpoint as ocp

    (newest,) = (folder / "words" / "checkpoints").glob("3")
    saved = ocp.StandardCheckpointer().restore(newest.absolute() / "default")
    assert saved["parameters"]["head"]["words"]["kernel"].shape == (128, 64)
    assert "This run is finished: 3 steps" in train(folder, "words", name)


@pytest.mark.slow
def test_an_encoder_a_tokenizer_a_source_and_a_hook_are_one_file_each(folder):
    train(folder, "all", "--config.model.vision.family=my_encoders:Pixels", "--config.model.vision.width=24",
          "--config.model.tokenizer=my_tokenizers:Letters", "--config.data.source=my_sources:GreySource",
          "--config.data.greys=48", "--config.train.hooks=('my_hooks:Count',)")  # fmt: skip
    config = json.loads((folder / "all" / "config.json").read_text())
    assert config["model"]["vision"] == {"family": "my_encoders:Pixels", "image_size": 32, "width": 24}
    assert config["data"]["greys"] == 48
    assert (folder / "steps.txt").read_text().split() == ["1", "2", "3"]
    script = "import my_encoders, my_tokenizers, rankclip_jax; print(rankclip_jax.load('all').encode_text(['a']).shape)"
    environ = environment() | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    assert done.stdout == "(1, 128)\n", done.stderr
    script = "import rankclip_jax; rankclip_jax.load('all')"  # what a foreign run names is not imported
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    assert "my_encoders:Pixels is user code that is not loaded" in done.stderr


@pytest.mark.slow
def test_an_evaluation_and_zero_shot_of_a_labelled_folder_run_during_training(folder):
    for label, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        (folder / "colours" / label).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(np.full((40, 40, 3), colour, np.uint8)).save(folder / "colours" / label / f"{number}.png")
    (folder / "recipe.py").write_text(
        "from rankclip_jax.configs import demo\n"
        "def get_config():\n"
        "    config = demo.get_config()\n"
        "    config.evaluation.tasks = {\n"
        "        'spread': {'task': 'my_evaluations:Spread', 'power': 2, 'every_steps': 2},\n"
        "        'colours': {'task': 'zero_shot', 'path': 'colours', 'templates': ['a {} square'], 'every_steps': 1},\n"
        "    }\n"
        "    return config\n"
    )
    train(folder, "evaluated", recipe="recipe.py")
    found = {step: json.loads((folder / "evaluated" / "evaluation" / f"{step}.json").read_text()) for step in (1, 2, 3)}
    assert found[1].keys() >= {"colours/zero_shot/top_1", "colours/zero_shot/chance"}
    assert "spread/spread/distance" not in found[1]
    assert found[2]["spread/spread/distance"] > 0
    assert "validation/loss" not in found[2]
    assert found[3].keys() >= {"validation/loss", "spread/spread/distance", "colours/zero_shot/top_1"}
    assert found[3]["colours/zero_shot/chance"] == 0.5
    ways = json.loads((folder / "evaluated" / "evaluation" / "higher_is_better.json").read_text())
    assert (ways["spread/spread/distance"], ways["validation/loss"]) == (True, False)
    logged_names = {name for line in logged_lines(folder, "evaluated") for name in line}
    assert {"colours/zero_shot/top_1", "spread/spread/distance"} <= logged_names
    evaluate = [sys.executable, "-m", "rankclip_jax.evaluate", "--workdir", "evaluated", "--tasks", "spread,colours"]
    done = start(folder, [*evaluate, "--config", "recipe.py"])
    assert done.returncode == 0, done.stderr
    again = float(re.search(r"spread/spread/distance +([\d.]+)", done.stdout)[1])
    assert again == pytest.approx(found[3]["spread/spread/distance"], abs=1e-4)
    done = start(folder, evaluate)
    assert done.returncode == 2
    assert "config.evaluation.tasks.spread: unknown task 'my_evaluations:Spread'" in done.stderr
