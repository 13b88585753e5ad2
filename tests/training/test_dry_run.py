"""A dry run: everything once, and nothing left."""

import shutil

import jax
import pytest

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.training import dry_run
from rankclip_jax.training.loop import train
from tests.training.conftest import one_device, small, train_small


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_new_run_is_tried_and_nothing_is_left(tmp_path, capsys):
    outcome = train(small(), tmp_path / "runs" / "one", one_device(), dry_run=True)
    assert (outcome.step, outcome.finished) == (0, False)
    said = capsys.readouterr().out
    assert "took step 1 in" in said
    assert "wrote, verified and read a checkpoint" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_going_on_is_tried_and_the_run_stays_as_it_is(tmp_path, capsys):
    train_small(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "20")
    before = files(tmp_path)
    assert train(small(), tmp_path, one_device(), dry_run=True).step == 15
    assert "took step 16 in" in capsys.readouterr().out
    assert files(tmp_path) == before


def test_what_a_killed_one_left_is_named(tmp_path):
    (tmp_path / "dry_run").mkdir()
    with pytest.raises(UserError, match="dry run that was killed"):
        train(small(), tmp_path / "run", one_device(), dry_run=True)
    assert (tmp_path / "dry_run").is_dir()


def test_what_is_not_read_as_it_was_written_is_said(tmp_path, monkeypatch):
    real = dry_run.read_state
    monkeypatch.setattr(dry_run, "read_state", lambda *arguments: jax.tree.map(lambda x: x + 1, real(*arguments)))
    with pytest.raises(UserError, match="do not read back as written"):
        train(small(), tmp_path / "run", one_device(), dry_run=True)
    assert not list(tmp_path.iterdir())
