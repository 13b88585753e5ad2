"""Parts of one's own, each in one file of one's own folder, named by a dotted path: no product file is touched."""

import json
import os
import subprocess
import sys

import pytest

from tests.commands import ROOT, environment

OBJECTIVES = '''"""Two objectives: a sigmoid with a margin, and a head on token features."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from rankclip_jax.input_pipeline.setting import Range, setting
from rankclip_jax.objectives import LossResult, Objective, PairwiseObjective
from rankclip_jax.objectives.clip import Clip


@dataclasses.dataclass(frozen=True)
class Margin(PairwiseObjective):
    margin: float = setting(0.1, "distance to the negatives", Range(0, 1))

    def row_loss(self, similarity, scalars):
        logits = scalars["scale"] * (similarity("image", "text") - self.margin)
        return jnp.sum(jax.nn.softplus(jnp.where(similarity.own, -logits, logits)), axis=-1), {}


class Words(nn.Module):
    """Each word of the text, from the mean of the image's patches."""

    @nn.compact
    def __call__(self, outputs, batch):
        patches = outputs.tokens["image"].mean(axis=1)
        logits = nn.Dense(64, name="words")(patches)
        found = jax.nn.one_hot(batch["text"] % 64, 64).max(axis=1)
        return {"words": -jnp.sum(found * jax.nn.log_softmax(logits), axis=-1)}


@dataclasses.dataclass(frozen=True)
class WithWords(Clip):
    needs_tokens = True

    def head(self, embedding_size):
        return Words()

    def loss(self, outputs, step):
        result = super().loss(outputs, step)
        if not outputs.head:  # as in evaluation, which has embeddings alone
            return result
        words = outputs.head["words"].mean()
        return LossResult(result.loss + words, {**result.metrics, "words": words})
'''

ENCODERS = '''"""An encoder of convolutions alone."""

import dataclasses

import flax.linen as nn
import jax

from rankclip_jax.input_pipeline.setting import Range, setting
from rankclip_jax.models.encoder import Encoded, VisionConfig


@dataclasses.dataclass(frozen=True)
class Pixels(VisionConfig):
    width: int = setting(16, "channels", Range(1, 1024))

    @property
    def stride(self):
        return 8

    def module(self, embedding_size, execution):
        return PixelsModule(self.width, embedding_size)


class PixelsModule(nn.Module):
    width: int
    embedding_size: int

    @nn.compact
    def __call__(self, image, mask=None, *, train=False, rows=None, tokens=False):
        x = nn.relu(nn.Conv(self.width, (8, 8), strides=8)(image))
        x = x.reshape(len(x), -1, self.width)
        return Encoded(nn.Dense(self.embedding_size)(x.mean(axis=1)), x if tokens else None)
'''

REST = '''"""A tokenizer of letters, a source of colours, and a hook that counts."""

import dataclasses
from pathlib import Path

import numpy as np

from rankclip_jax.input_pipeline.setting import Range, setting
from rankclip_jax.input_pipeline.source import DataSource
from rankclip_jax.input_pipeline.tokenizers import Tokenizer
from rankclip_jax.training.hooks import Hook


class Letters(Tokenizer):
    vocabulary_size, end_of_text = 258, 257

    def __call__(self, texts, context_length):
        ids = np.zeros((len(texts), context_length), np.int32)
        for row, text in zip(ids, texts, strict=True):
            known = [byte + 1 for byte in text.encode()][: context_length - 1] + [self.end_of_text]
            row[: len(known)] = known
        return ids


class Grey:
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {"image": np.full((32, 32, 3), index % 256, np.uint8), "text": f"grey number {index % 256}"}


@dataclasses.dataclass(frozen=True)
class GreySource(DataSource):
    expects = "no path"
    greys: int = setting(64, "how many", Range(1, 1000))

    def open(self, path, split, *, image_size, seed):
        return Grey(self.greys)

    def has_validation(self, path):
        return True


class Count(Hook):
    def after_step(self, info):
        with Path("steps.txt").open("a") as file:
            file.write(f"{info.step}\\n")
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("mine")
    for name, text in (("my_objectives", OBJECTIVES), ("my_encoders", ENCODERS), ("my_parts", REST)):
        (place / f"{name}.py").write_text(text)
    return place


def train(folder, name, *flags, status=0):
    command = [sys.executable, "-m", "rankclip_jax.train", "--config", "demo", "--config.train.steps=3",
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


def logged(folder, name):
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "pairs_per_second" in line]


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
    assert "config.objective.margin: 0.3 there, 0.2 now" in said


@pytest.mark.slow
def test_an_objective_on_token_features_has_a_head_that_is_trained_and_saved(folder):
    name = "--config.objective.name=my_objectives:WithWords"
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
          "--config.model.tokenizer=my_parts:Letters", "--config.data.source=my_parts:GreySource",
          "--config.data.greys=48", "--config.train.hooks=('my_parts:Count',)")  # fmt: skip
    config = json.loads((folder / "all" / "config.json").read_text())
    assert config["model"]["vision"] == {"family": "my_encoders:Pixels", "image_size": 32, "width": 24}
    assert config["data"]["greys"] == 48
    assert (folder / "steps.txt").read_text().split() == ["1", "2", "3"]
    script = "import my_encoders, my_parts, rankclip_jax; print(rankclip_jax.load('all').encode_text(['a']).shape)"
    environ = environment() | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    assert done.stdout == "(1, 128)\n", done.stderr
    script = "import rankclip_jax; rankclip_jax.load('all')"  # what a foreign run names is not imported
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    assert "my_encoders:Pixels is code of your own, which is not loaded" in done.stderr
