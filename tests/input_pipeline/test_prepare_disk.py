"""Preparation beside others, on full disks, and after a kill at its very end."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rankclip_jax.input_pipeline import prepare
from rankclip_jax.input_pipeline.preparation import lock, manifest
from tests.input_pipeline.test_prepare import captions, checksums, jpeg, records, refused, run, write_csv

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow Datasets warns of much
OPTIONS = ["--shard_size", "5", "--shrink", "0"]


@pytest.fixture(scope="module")
def forty(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("forty"), 40)


def command(path, output, *more, workers="2"):
    words = ["--source", "csv", "--input", path, "--output", output, "--workers", workers, *OPTIONS, *more]
    return [sys.executable, "-m", "rankclip_jax.input_pipeline.prepare", *map(str, words)]


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_in_use_is_refused_and_its_owner_named(forty, tmp_path, capsys):
    with lock.locked(tmp_path / "x", "train"):
        for split in ("train", "test"):
            said = refused(capsys, forty, tmp_path / "x", "--split", split)
            assert f"{tmp_path / 'x'} is in use: process {os.getpid()} on " in said
            assert "has been preparing the split 'train' in it since" in said
            assert files(tmp_path / "x") == [lock.NAME]
    assert not (tmp_path / "x").exists()
    assert len(run("csv", forty, tmp_path / "x", *OPTIONS)) == 40
    assert lock.NAME not in files(tmp_path / "x")


def test_what_a_killed_owner_left_keeps_nobody_out(forty, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / lock.NAME).write_text('{"host": "gone", "process": 1, "split": "train", "started": "yesterday"}')
    assert len(run("csv", forty, tmp_path / "x", *OPTIONS)) == 40


@pytest.mark.slow
@pytest.mark.parametrize("splits", [("train", "test"), ("train", "train")])
def test_two_at_once_in_one_folder_harm_neither(splits, forty, tmp_path):
    for split in splits:
        run("csv", forty, tmp_path / "whole", *OPTIONS, "--split", split)
    commands = [command(forty, tmp_path / "x", "--split", split) for split in splits]
    running = [subprocess.Popen(one, cwd=ROOT, stderr=subprocess.PIPE, text=True) for one in commands]
    said = [process.communicate(timeout=200)[1] for process in running]
    assert 0 in [process.returncode for process in running]
    for process, one, words in zip(running, commands, said, strict=True):
        if process.returncode:
            assert "is in use: process" in words
            assert "Traceback" not in words
            subprocess.run(one, cwd=ROOT, capture_output=True, timeout=200, check=True)
    assert checksums(tmp_path / "x") == checksums(tmp_path / "whole")


@pytest.fixture
def cut_off(forty, tmp_path, monkeypatch):
    """A preparation that was killed after its shards were moved, before the manifest was written."""
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "write", lambda *_: (_ for _ in ()).throw(SystemExit(9)))
        with pytest.raises(SystemExit):
            run("csv", forty, tmp_path / "x", *OPTIONS)
    assert len(list((tmp_path / "x").glob(manifest.shard_pattern("train")))) == 8
    return tmp_path / "x"


def test_a_kill_before_the_manifest_is_mended_by_the_same_command_and_stops_no_other(cut_off, forty, tmp_path):
    for split in ("test", "train"):
        for output in (tmp_path / "whole", cut_off):
            prepare.main(command(forty, output, "--split", split, workers="1")[3:])
        described = json.loads((cut_off / "dataset_info.json").read_text())["splits"]
        assert {entry["name"] for entry in described} == manifest.read(cut_off)["splits"].keys()
        assert len(records(cut_off, split)) == 40
    assert checksums(cut_off) == checksums(tmp_path / "whole")


def test_shards_of_a_preparation_that_was_given_up_do_not_stay(cut_off, forty):
    shutil.rmtree(cut_off / ".prepare-train")
    assert len(run("csv", forty, cut_off, "--shard_size", "20", "--shrink", "0")) == 40
    assert len(list(cut_off.glob(manifest.shard_pattern("train")))) == 2


@pytest.fixture(scope="module")
def growing(tmp_path_factory):
    """Images of which the last are large: the first shards fit where the last do not."""
    path = write_csv(tmp_path_factory.mktemp("growing") / "in", 20)
    for number in range(15, 20):
        (path.parent / f"{number}.jpg").write_bytes(jpeg(number, 600, 400))
    return path


def check_refusal(done, output, reason):
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("rankclip_jax.input_pipeline.prepare:")]
    assert line.startswith(f"rankclip_jax.input_pipeline.prepare: --output: {output}/.prepare-train")
    assert f"cannot be written ({reason}). The 3 finished shards are kept." in line
    assert not list((output / ".prepare-train").glob("*.partial"))


@pytest.mark.parametrize("option", [[], ["--drop_duplicates"]])
def test_a_file_that_cannot_be_written_is_a_paragraph_and_the_same_command_goes_on(option, growing, tmp_path):
    """A limit of the file's size refuses as a full disk does, in the worker process too."""
    words = command(growing, tmp_path / "x", *option, workers="1")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False, preexec_fn=limit)
    check_refusal(done, tmp_path / "x", "File too large")
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "x" / ".prepare-train").glob("[0-9]*.train")}
    assert len(kept) == 3
    subprocess.run(words, cwd=ROOT, capture_output=True, timeout=200, check=True)
    moved = sorted((tmp_path / "x").glob(manifest.shard_pattern("train")))
    assert [path.stat().st_mtime_ns for path in moved[:3]] == [kept[name] for name in sorted(kept)]
    assert captions(records(tmp_path / "x")) == [f"picture {number}" for number in range(20)]


def test_a_full_disk_is_a_paragraph_and_the_same_command_goes_on(growing, tmp_path):
    output = tmp_path / "disk" / "x"
    (tmp_path / "disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=800k", "tmpfs", str(tmp_path / "disk")]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs the rights of root")
    try:
        words = command(growing, output, workers="1")
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
        check_refusal(done, output, "No space left on device")
        subprocess.run(["mount", "-o", "remount,size=8m", str(tmp_path / "disk")], check=True)
        subprocess.run(words, cwd=ROOT, capture_output=True, timeout=200, check=True)
        assert len(records(output)) == 20
    finally:
        subprocess.run(["umount", str(tmp_path / "disk")], check=True)


@pytest.mark.parametrize("name", ["manifest.json", "dataset_info.json", "plan.json"])
def test_a_disk_that_refuses_at_the_end_loses_no_work(name, forty, tmp_path, monkeypatch, capsys):
    """Of the small files beside the shards, wherever they are written."""
    replace = Path.replace

    def full(self, target):
        if Path(target).name == name:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        said = refused(capsys, forty, tmp_path / "x", *OPTIONS)
    assert "cannot be written (No space left on device)" in said
    if name == "plan.json":
        assert not (tmp_path / "x").exists()
    assert len(run("csv", forty, tmp_path / "x", *OPTIONS)) == 40


def test_an_input_that_cannot_be_read_is_not_called_a_full_disk(tmp_path, monkeypatch, capsys):
    path = write_csv(tmp_path / "in", 3)

    def refuse(*_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(prepare.Table, "describe", refuse)
    said = refused(capsys, path, tmp_path / "x")
    assert f"{path}: Permission denied" in said
    assert "--output" not in said
    assert not (tmp_path / "x").exists()
