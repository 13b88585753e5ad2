"""Distillation as a user starts it: from weights run beside the student, and from stored embeddings."""

import json

import numpy as np
import pytest

from rankclip_jax.evaluation import embed_command
from rankclip_jax.input_pipeline.embeddings import StoredEmbeddings, path_of
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.interop import exporting, loading
from rankclip_jax.training.loop import train
from tests.training.conftest import one_device, small

LENGTH = 6


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A run of a few steps, and its weights in the layout of open_clip."""
    folder = tmp_path_factory.mktemp("teacher")
    train(small(train__steps=2, data__train_examples=64), folder / "run", mesh=one_device())
    (folder / "weights").mkdir()
    path = folder / "weights" / "open_clip.safetensors"
    exporting.write(path, path, "open_clip", loading.read(folder / "run"))
    return folder


def student(teacher, objective="rank_distillation", **changes):
    settings = {"objective__teacher": str(teacher), "train__steps": LENGTH, "data__train_examples": 64}
    return small(objective__name=objective, data__workers=0, **settings | changes)


def losses(workdir, name="cross_modal"):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if name in line}


def test_a_run_its_export_and_its_stored_embeddings_teach_the_same(teacher, tmp_path):
    stored = tmp_path / "stored"
    embed_command.embed(student(teacher / "run"), teacher / "run", stored)
    found = []
    for number, path in enumerate((teacher / "run", teacher / "weights" / "open_clip.safetensors", stored)):
        workdir = tmp_path / f"student{number}"
        train(student(path, "affinity_distillation"), workdir, mesh=one_device())
        found.append(losses(workdir, "divergence"))
    assert len(found[0]) == LENGTH
    assert found[0] == found[1]
    assert found[2] == pytest.approx(found[0], rel=5e-3)  # stored in 16 bits


def test_a_student_resumes_to_the_bit(teacher, tmp_path):
    config = student(teacher / "run", checkpoint__every_steps=3, optimizer__schedule="constant")
    train(config, tmp_path / "whole", mesh=one_device())
    config.train.steps = 3
    train(config, tmp_path / "resumed", mesh=one_device())
    config.train.steps = LENGTH
    train(config, tmp_path / "resumed", mesh=one_device())
    assert losses(tmp_path / "resumed") == losses(tmp_path / "whole")


def test_several_teachers_of_other_sizes_mix(teacher, tmp_path):
    wide = small(train__steps=1, data__train_examples=64, model__name="ViT-demo")
    train(wide, tmp_path / "wide", mesh=one_device())
    config = student(f"{teacher / 'run'},{tmp_path / 'wide'}", model__image_size=16, model__context_length=16)
    train(config, tmp_path / "student", mesh=one_device())
    assert np.isfinite(list(losses(tmp_path / "student").values())).all()


def test_an_embedding_that_stopped_continues(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr("rankclip_jax.input_pipeline.embeddings.CHUNK", 24)
    monkeypatch.setattr("rankclip_jax.evaluation.embed_command.CHUNK", 24)
    config, whole, stopped = student(teacher / "run"), tmp_path / "whole", tmp_path / "stopped"
    embed_command.embed(config, teacher / "run", whole)
    embed_command.embed(config, teacher / "run", stopped)
    path_of(stopped, "first", 1).unlink()
    with pytest.raises(UserError, match="part 1 is missing"):
        StoredEmbeddings.open(stopped)
    path_of(stopped, "image", 1).write_bytes(b"cut off")
    embed_command.embed(config, teacher / "run", stopped)
    sample = np.arange(64)
    for ours, theirs in zip(*(StoredEmbeddings.open(folder).rows(sample, 0 * sample) for folder in (whole, stopped)),
                            strict=True):  # fmt: skip
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(UserError, match="other weights or data"):
        embed_command.embed(student(teacher / "run", data__train_examples=65), teacher / "run", whole)


@pytest.mark.parametrize(
    ("path", "said"),
    [("", "not given; rank_distillation needs a teacher"), ("nowhere", "nowhere: not found")],
)
def test_a_teacher_that_is_not_there_is_reported(tmp_path, path, said):
    with pytest.raises(UserError, match=f"config.objective.teacher: {said}"):
        train(student(path), tmp_path / "run", mesh=one_device())
    assert not (tmp_path / "run").exists()


def test_a_teacher_for_shorter_texts_is_to_be_stored(teacher, tmp_path):
    config = student(teacher / "run", model__context_length=30)
    with pytest.raises(UserError, match=r"at least its 30 tokens; found 'clip' and 24.*rankclip_jax.embed"):
        train(config, tmp_path / "run", mesh=one_device())


def test_stored_embeddings_of_other_data_are_refused(teacher, tmp_path):
    embed_command.embed(student(teacher / "run"), teacher / "run", tmp_path / "stored")
    with pytest.raises(UserError, match="expected embeddings of the training data; found those of other data"):
        train(student(tmp_path / "stored", data__train_examples=65), tmp_path / "run", mesh=one_device())
