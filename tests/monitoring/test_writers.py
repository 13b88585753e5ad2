"""Weights & Biases, offline, as its own reader finds it."""

import time

import pytest

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.monitoring import writers
from rankclip_jax.monitoring.writers import check_writers, make_writers
from rankclip_jax.recipes import base


def leveldb_records(content):
    """Of a log as LevelDB defines it: a checksum, a length and a type before each part; blocks of 32 KiB."""
    place, parts = 0, b""
    while place + 7 <= len(content):
        left = 32_768 - (place + 7) % 32_768  # the file's own header of seven bytes counts
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


@pytest.mark.filterwarnings("ignore")  # of the library's own
def test_an_offline_run_holds_the_settings_and_the_numbers(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_PROJECT", "mine")
    config = base()
    config.logging.wandb = "offline"
    config.optimizer.learning_rate = 0.25
    for writer in make_writers(tmp_path, 0, config):
        writer.write(3, {"loss": 1.5, "unknown": None, "bad": float("nan")})
        writer.close()
    for _ in range(300):  # another process of wandb's own writes, and may be behind
        paths = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
        contents = [data for path in paths for data in leveldb_records(path.read_bytes()[7:])]
        records = [wandb_internal_pb2.Record.FromString(data) for data in contents]
        runs = [record.run for record in records if record.WhichOneof("record_type") == "run"]
        if runs and any(record.history.item for record in records):
            break
        time.sleep(0.1)
    (run,) = runs
    assert (run.project, run.display_name) == ("mine", tmp_path.name)
    assert any("0.25" in update.value_json for update in run.config.update)
    history = [item for record in records for item in record.history.item]
    logged = {(item.key or item.nested_key[0]): item.value_json for item in history}
    assert (logged["loss"], logged["step"]) == ("1.5", "3")
    assert not {"unknown", "bad"} & logged.keys()
    assert wandb.run is None


def test_a_writer_that_is_not_installed_is_said_before_anything_is_written(monkeypatch):
    config = base()
    config.logging.wandb = "offline"
    monkeypatch.setattr(writers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"config\.logging\.wandb: 'offline' needs the package wandb"):
        check_writers(config)
