"""Small runs in this process, and one that nothing disturbed."""

import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh

from configs import demo
from rankclip_jax.models.presets import PRESETS, Preset
from rankclip_jax.models.text_transformer import TextTransformerConfig
from rankclip_jax.models.vision_transformer import VisionTransformerConfig
from rankclip_jax.training.loop import train

TINY = Preset(
    32, VisionTransformerConfig(32, 8, 32, 1, 1), TextTransformerConfig(width=32, layers=1, heads=1, context_length=24)
)

# What makes the demo a run of seconds, as flags and as settings.
SMALL = {
    "train.global_batch_size": 16, "train.steps": 20, "data.validation_examples": 64, "checkpoint.every_steps": 5,
    "logging.every_steps": 1, "optimizer.name": "adamw", "optimizer.learning_rate": 7e-4,
}  # fmt: skip
SMALL_FLAGS = ["--config", "configs/demo.py", *(f"--config.{name}={value}" for name, value in SMALL.items())]


@pytest.fixture(scope="session", autouse=True)
def tiny():
    """A model that compiles in seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", TINY)
        yield


def small(**changes):
    """The demo's settings made small, with changes by dotted names, dots written as two underscores."""
    config = demo.get_config()
    changed = (
        SMALL
        | {"model.name": "tiny", "objective.name": "clip"}
        | {name.replace("__", "."): value for name, value in changes.items()}
    )
    for name, value in changed.items():
        section, _, key = name.rpartition(".")
        (config[section] if section else config)[key] = value
    return config


def one_device():
    return Mesh(np.asarray(jax.devices()[:1]), ("data",))


def train_small(workdir, mesh=None, **changes):
    return train(small(**changes), workdir, mesh=mesh or one_device())


def final_state(workdir):
    folder = max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    restored = ocp.StandardCheckpointer().restore(folder.absolute() / "default")
    return int(restored["step"]), jax.tree.map(np.asarray, restored)


def read_metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def read_results(workdir, step):
    return json.loads((workdir / "evaluation" / f"{step}.json").read_text())


def assert_bit_identical(first, second):
    assert first[0] == second[0]
    assert jax.tree.all(jax.tree.map(np.array_equal, first[1], second[1]))


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    train_small(workdir, evaluation__every_steps=10, objective__name="rankclip")
    return workdir
