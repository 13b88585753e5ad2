"""Preparation: any source to the same records, whoever does it and however often it is killed."""

import csv
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rankclip_jax.input_pipeline import array_record, images, inspect, prepare
from rankclip_jax.input_pipeline.preparation import manifest

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow Datasets and Beam warn of much


def jpeg(number, width=40, height=30):
    """Noise that its number gives."""
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def write_csv(folder, count, header=("filepath", "title")):
    folder.mkdir(exist_ok=True)
    with (folder / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for number in range(count):
            (folder / f"{number}.jpg").write_bytes(jpeg(number))
            writer.writerow([f"{number}.jpg", f"picture {number}"])
    return folder / "list.csv"


def run(source, path, output, *options):
    words = ["--source", source, "--input", path, "--output", output, "--workers", "1", *options]
    prepare.main([str(word) for word in words])
    return records(output)


def refused(capsys, *arguments, source="csv"):
    with pytest.raises(SystemExit) as stopped:
        run(source, *arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err


def records(output, split="train"):
    source = array_record.open_split(output, split, flag="--output")
    return [source[index] for index in range(len(source))]


def captions(found):
    return [record["text"][0] for record in found]


def skipped(output, split="train"):
    entries = manifest.read(output)["splits"][split]["skipped"]
    return {reason: entry["count"] for reason, entry in entries.items()}


def checksums(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def forty(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("forty"), 40)


@pytest.fixture(scope="module")
def prepared(forty, tmp_path_factory):
    output = tmp_path_factory.mktemp("prepared") / "data"
    run("csv", forty, output, "--shard_size", "6", "--shrink", "0")
    return output


def test_a_csv_becomes_records_with_the_same_bytes_in_the_same_order(prepared):
    found = records(prepared)
    assert captions(found) == [f"picture {number}" for number in range(40)]
    assert [record["image"] for record in found] == [jpeg(number) for number in range(40)]
    entry = manifest.read(prepared)["splits"]["train"]
    assert entry["pairs"] == 40
    assert [shard["pairs"] for shard in entry["shards"]] == [6] * 6 + [4]
    assert not list(prepared.glob(".prepare*"))


def test_the_number_of_workers_does_not_change_a_byte(forty, prepared, tmp_path):
    run("csv", forty, tmp_path / "x", "--shard_size", "6", "--shrink", "0", "--workers", "2")
    assert checksums(tmp_path / "x") == checksums(prepared)


def test_beam_writes_the_same_bytes(forty, prepared, tmp_path):
    pytest.importorskip("apache_beam")
    run("csv", forty, tmp_path / "x", "--shard_size", "6", "--shrink", "0", "--beam=--runner=FnApiRunner")
    assert checksums(tmp_path / "x") == checksums(prepared)


def test_killed_at_any_moment_it_goes_on_and_ends_with_the_same_bytes(tmp_path):
    path, rng = write_csv(tmp_path / "in", 600), random.Random(0)
    options = ["--shard_size", "20", "--shrink", "24", "--drop_duplicates", "--validation_share", "0.2"]
    run("csv", path, tmp_path / "whole", *options)
    words = ["--source", "csv", "--input", path, "--output", tmp_path / "killed", "--workers", "2", *options]
    command = [sys.executable, "-m", "rankclip_jax.input_pipeline.prepare", *map(str, words)]
    for _ in range(3):
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
            seen = time.monotonic()
            while not (tmp_path / "killed").exists() and process.poll() is None and time.monotonic() < seen + 60:
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 4))
            process.kill()
    assert subprocess.run(command, cwd=ROOT, capture_output=True, timeout=200, check=False).returncode == 0
    assert checksums(tmp_path / "killed") == checksums(tmp_path / "whole")
    assert not list((tmp_path / "killed").glob(".prepare*"))


def test_a_second_call_adds_a_split_and_the_same_call_again_does_nothing(forty, tmp_path, capsys):
    run("csv", forty, tmp_path / "x")
    run("csv", forty, tmp_path / "x", "--split", "validation", "--max_caption", "9")
    assert (len(records(tmp_path / "x")), len(records(tmp_path / "x", "validation"))) == (40, 10)
    before = checksums(tmp_path / "x")
    run("csv", forty, tmp_path / "x")
    assert "is already prepared: 40 pairs" in capsys.readouterr().out
    assert "already has a split 'train', from: python -m" in refused(capsys, forty, tmp_path / "x", "--min_side", "5")
    assert checksums(tmp_path / "x") == before


def test_an_unfinished_preparation_of_something_else_is_not_mixed_in(forty, tmp_path, capsys):
    path = write_csv(tmp_path / "in", 3)
    (tmp_path / "x" / ".prepare-train").mkdir(parents=True)
    plan = tmp_path / "x" / ".prepare-train" / "plan.json"
    plan.write_text(json.dumps({"command": "another", "input": {}}))
    (plan.parent / "00000.json").write_text("{}")
    said = refused(capsys, path, tmp_path / "x")
    assert "has an unfinished preparation of another command: another" in said
    assert f"rm -r {tmp_path / 'x' / '.prepare-train'}" in said


def test_a_mistaken_flag_is_mended_by_giving_the_right_one(forty, tmp_path, capsys):
    assert "no column 'caption'" in refused(capsys, forty, tmp_path / "x", "--caption_key", "caption")
    assert len(run("csv", forty, tmp_path / "x")) == 40


def test_a_share_goes_to_validation_by_name_alone(forty, tmp_path):
    run("csv", forty, tmp_path / "x", "--validation_share", "0.25", "--shard_size", "7")
    run("csv", forty, tmp_path / "y", "--validation_share", "0.25", "--shard_size", "40")
    parts = [sorted(captions(records(tmp_path / name, split))) for split in ("train", "validation") for name in "xy"]
    assert parts[0] == parts[1]
    assert parts[2] == parts[3]
    assert 3 <= len(parts[2]) <= 18
    assert len(parts[0]) + len(parts[2]) == 40


def test_equal_images_are_kept_once(tmp_path):
    path = write_csv(tmp_path / "in", 30)
    for number in (7, 19, 28):
        (path.parent / f"{number}.jpg").write_bytes(jpeg(2))
    found = run("csv", path, tmp_path / "x", "--drop_duplicates", "--shard_size", "4")
    assert captions(found) == [f"picture {number}" for number in range(30) if number not in (7, 19, 28)]
    assert skipped(tmp_path / "x") == {"duplicate image": 3}


def test_images_are_shrunk_and_filtered(tmp_path):
    path = write_csv(tmp_path / "in", 6)
    for number, size in enumerate([(300, 200), (100, 64), (64, 640), (20, 20), (90, 1000)]):
        (path.parent / f"{number}.jpg").write_bytes(jpeg(number, *size))
    options = ["--shrink", "64", "--min_side", "21", "--max_aspect", "10"]
    found = run("csv", path, tmp_path / "x", *options)
    sizes = [Image.open(io.BytesIO(record["image"])).size for record in found]
    assert sizes == [(96, 64), (100, 64), (64, 640), (40, 30)]
    assert found[1]["image"] == jpeg(1, 100, 64)  # nothing to shrink: the same bytes
    assert skipped(tmp_path / "x") == {"image too small": 1, "image too long": 1}


def test_bad_rows_and_files_are_skipped_counted_and_named(tmp_path, capsys):
    path = write_csv(tmp_path / "in", 4)
    (path.parent / "1.jpg").unlink()
    (path.parent / "2.jpg").write_bytes(jpeg(2)[:200])
    (path.parent / "latin.jpg").write_bytes(jpeg(5))
    with path.open("ab") as file:
        file.write(b'3.jpg\n3.jpg,"two\nlines, one ""caption"""\n3.jpg,\n\n3.jpg,caf\xe9\n3.jpg,nul\0l\n')
        file.write(b'\xe9.jpg,x\n3.jpg,"' + b"x" * 200_000 + b'"\n3.jpg,last')
    found = run("csv", path, tmp_path / "x")
    assert captions(found) == ["picture 0", "picture 3", 'two\nlines, one "caption"', "null", "last"]
    assert skipped(tmp_path / "x") == {
        "no such file": 1, "unreadable image": 1, "too few columns": 1, "no caption": 1, "caption is not UTF-8": 1,
        "path is not UTF-8": 1, "malformed row": 1,
    }  # fmt: skip
    assert "skipped 1: no such file, such as 1.jpg" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"a,b\nc,d\n", "no column 'filepath'"),
        (b",".join(b"column%d" % number for number in range(1_000_000)), "and 999980 more"),
        (b"filepath,title\nnone.jpg,x\n", "found none. Skipped: 1 x no such file"),
        (b"\x00" * 1000, "no column 'filepath'"),
        (b"\xff\xfe" * 1000, "is UTF-16 text; expected UTF-8"),
        (b"\xfe\xfa" * 1000, "no column 'filepath'"),
    ],
    ids=["empty", "columns", "a million", "nothing left", "NUL", "UTF-16", "binary"],
)
def test_hopeless_tables_are_explained(content, said, tmp_path, capsys):
    (tmp_path / "list.csv").write_bytes(content)
    message = refused(capsys, tmp_path / "list.csv", tmp_path / "x")
    assert said in message
    assert len(message) < 1500


def test_several_columns_of_captions_stay_with_their_image(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    (tmp_path / "list.tsv").write_text("image\tshort\tlong\na.jpg\tone\ttwo\na.jpg\t\tthree\n")
    found = run("tsv", tmp_path / "list.tsv", tmp_path / "x", "--image_key", "image", "--caption_key", "short,long")
    assert [record["text"] for record in found] == [["one", "two"], ["three"]]


def test_a_folder_of_images_with_text_files(tmp_path):
    folder = tmp_path / "in" / "deep"
    folder.mkdir(parents=True)
    for number in range(5):
        (folder / f"{number}.JPG").write_bytes(jpeg(number))
        (folder / f"{number}.txt").write_text(f"first {number}\n\nsecond {number}\n")
    (folder / "1.txt").unlink()
    (folder / "2.txt").write_text(" \n")
    found = run("folder", tmp_path / "in", tmp_path / "x", "--shard_size", "2")
    assert [record["text"] for record in found] == [[f"first {number}", f"second {number}"] for number in (0, 3, 4)]
    assert skipped(tmp_path / "x") == {"no caption": 2}


def test_a_prepared_dataset_is_a_source_too(prepared, tmp_path):
    found = run("tfds", prepared, tmp_path / "x", "--shard_size", "11", "--shrink", "0")
    assert found == records(prepared)
    found = run("tfds", prepared, tmp_path / "y", "--caption_key", "key")
    assert captions(found) == [f"{number}.jpg" for number in range(40)]


def test_what_a_tfds_directory_lacks_is_named(prepared, tmp_path, capsys):
    for options, said in (
        (["--split", "test"], "has no split 'test'; choose from train"),
        (["--image_key", "picture"], "no feature 'picture'"),
        (["--caption_key", "objects/text"], "no feature 'objects/text'"),
    ):
        assert said in refused(capsys, prepared, tmp_path / "x", *options, source="tfds")


def add(tar, name, content=b"", kind=tarfile.REGTYPE, link="", headers=None):
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname, member.pax_headers = len(content), kind, link, headers or {}
    tar.addfile(member, io.BytesIO(content))


def test_webdataset_tars_of_every_kind_of_caption(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for shard in range(2):
        with tarfile.open(folder / f"0000{shard}.tar{'.gz' if shard else ''}", "w:gz" if shard else "w") as tar:
            add(tar, f"{shard}0.jpg", jpeg(1))
            add(tar, f"{shard}0.txt", f"text {shard}".encode())
            add(tar, f"{shard}0.json", b'{"caption": "unused"}')
            add(tar, f"{shard}1.json", json.dumps({"caption": [f"one {shard}", "two"]}).encode())
            add(tar, f"{shard}1.PNG", jpeg(2))
    found = run("webdataset", folder, tmp_path / "x", "--shrink", "0")
    assert [record["text"] for record in found] == [["text 0"], ["one 0", "two"], ["text 1"], ["one 1", "two"]]
    assert found[1]["image"] == jpeg(2)


def test_malicious_and_broken_tars_write_nothing_outside_and_lose_nothing_silently(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    with tarfile.open(folder / "0.tar", "w") as tar:
        for name in ("../outside", "/tmp/absolute", "a/../../b"):
            add(tar, f"{name}.jpg", jpeg(1))
        add(tar, "link.jpg", kind=tarfile.SYMTYPE, link="/etc/passwd")
        add(tar, "hard.jpg", kind=tarfile.LNKTYPE, link="good.jpg")
        add(tar, "pipe", kind=tarfile.FIFOTYPE)
        add(tar, "alone.jpg", jpeg(3))
        add(tar, "text.txt", b"alone")
        add(tar, "json.jpg", jpeg(3))
        add(tar, "json.json", b'{"title": "x"}')
        add(tar, "deep.jpg", jpeg(3))
        add(tar, "deep.json", b"[" * 100_000)
        add(tar, "bytes.jpg", jpeg(3))
        add(tar, "bytes.txt", b"\xff\xfe")
        add(tar, "good.jpg", jpeg(4), headers={"comment": "x" * 1_000_000})
        add(tar, "good.txt", b"good")
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        for number in range(3):
            add(tar, f"{number}.jpg", jpeg(number))
            add(tar, f"{number}.txt", f"cut {number}".encode())
    with tarfile.open(fileobj=io.BytesIO(whole.getvalue())) as tar:
        second = tar.getmembers()[2].offset
    (folder / "1.tar").write_bytes(whole.getvalue()[: second + 900])
    header = tarfile.TarInfo("liar.jpg")
    header.type, header.size = tarfile.XHDTYPE, 1 << 32
    (folder / "2.tar").write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + b"x" * 1000)
    (folder / "3.tar").write_bytes(b"not a tar" * 1000)
    before = sorted(path for path in tmp_path.rglob("*") if not {"in", "x"} & set(path.parts))
    found = run("webdataset", folder, tmp_path / "x")
    assert captions(found) == ["good", "cut 0"]
    assert skipped(tmp_path / "x") == {
        "no 'caption' in the JSON": 2, "unsafe name": 3, "not a regular file": 3, "no caption": 1, "no image": 1,
        "caption is not UTF-8": 1, "damaged tar": 3,
    }  # fmt: skip
    outside = sorted(path for path in tmp_path.rglob("*") if not {"in", "x"} & set(path.parts))
    assert outside == before


def test_bad_flags_are_one_paragraph(tmp_path, capsys):
    for words, said in (
        (["--source", "zip", "--input", "x", "--output", "y"], "invalid choice: 'zip'"),
        (["--source", "csv", "--input", tmp_path / "none", "--output", tmp_path / "x"], "nothing at"),
        (
            ["--source", "folder", "--input", tmp_path, "--output", tmp_path / "x", "--shrink", "-1"],
            "--shrink: expected 0",
        ),
        (
            ["--source", "csv", "--input", tmp_path, "--output", tmp_path / "x"],
            "is a folder; --source csv expects a file",
        ),
        (["--source", "folder", "--input", tmp_path, "--output", "/proc/x"], "--output: cannot write to /proc"),
    ):
        with pytest.raises(SystemExit):
            prepare.main([str(word) for word in words])
        error = capsys.readouterr().err
        assert said in error
        assert error.startswith("rankclip_jax.input_pipeline.prepare: ")
        assert error.count("\n") == 1


def test_inspection_finds_damaged_truncated_and_missing_shards(prepared, tmp_path, capsys):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in prepared.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    inspect.main([str(copy)])
    said = capsys.readouterr().out
    assert "train: 40 pairs" in said
    assert "checksums match" in said
    with Image.open(copy / "contact_sheet.png") as sheet:
        assert sheet.size == (1000, 4 * 264)
        assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 20
    shards = sorted(copy.glob("*array_record*"))
    shards[0].write_bytes(shards[0].read_bytes()[:-10])
    content = bytearray(shards[1].read_bytes())
    content[len(content) // 2] ^= 1
    shards[1].write_bytes(content)
    shards[2].unlink()
    with pytest.raises(SystemExit) as stopped:
        inspect.main([str(copy), "--pairs", "0"])
    assert stopped.value.code == 1
    said = capsys.readouterr().out
    assert "3 damaged shards" in said
    for shard, what in zip(
        shards, ("bytes, expected", "its checksum differs from the manifest", "missing (records 12 to 17"), strict=False
    ):
        assert any(shard.name in line and what in line for line in said.splitlines())


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--pairs=-3"], "--pairs: expected 0 to 1000; found -3"), (["--seed=-1"], "--seed: expected 0"),
     (["--pairs=x"], "invalid int value"), (["--split=none"], "has no split 'none'"),
     (["--contact_sheet=none/x.png"], "--contact_sheet: expected a .png"), (["--contact_sheet=x.txt"], "a .png or")],
    ids=str,
)  # fmt: skip
def test_inspection_refuses_what_it_cannot_show(words, said, prepared, capsys):
    with pytest.raises(SystemExit) as stopped:
        inspect.main([str(prepared), *words])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_inspection_shows_how_many_captions_images_have(tmp_path, capsys):
    """In numbers, and each caption on the contact sheet."""
    (tmp_path / "in").mkdir()
    for number in range(6):
        (tmp_path / "in" / f"{number}.jpg").write_bytes(jpeg(number))
        texts = [f"caption {place} of {number}" for place in range({0: 5, 1: 9, 2: 2}.get(number, 1))]
        (tmp_path / "in" / f"{number}.txt").write_text("\n".join(texts))
    run("folder", tmp_path / "in", tmp_path / "x")
    inspect.main([str(tmp_path / "x"), "--pairs", "0"])
    assert (
        "captions per image: 1 (3 images), 2 (1 images), 5 (1 images), 9 (1 images); 19 in total, 3.17 per image"
        in (capsys.readouterr().out)
    )
    source = array_record.open_split(tmp_path / "x", "train", flag="x")
    assert [inspect._tile(source, index)[1] for index in (0, 2, 3)] == [
        [f"{place + 1}. caption {place} of 0" for place in range(5)],
        ["1. caption 0 of 2", "2. caption 1 of 2"],
        ["caption 0 of 3"],
    ]
    assert inspect._tile(source, 1)[1][-2:] == ["5. caption 4 of 1", "and 4 more"]
    sheet = inspect.draw_contact_sheet(tmp_path / "x", "train", 6, 0)
    assert sheet.height == 2 * (200 + 6 * 15 + 4)  # two rows, each as high as the most lines need


def test_a_preparation_that_fails_leaves_nothing(tmp_path, capsys):
    (tmp_path / "list.csv").write_text("filepath,title\nnone.jpg,x\n")
    refused(capsys, tmp_path / "list.csv", tmp_path / "x")
    refused(capsys, tmp_path / "list.csv", tmp_path / "x", "--drop_duplicates")
    refused(capsys, tmp_path / "list.csv", tmp_path / "x", "--image_key", "none")
    assert [path.name for path in tmp_path.iterdir()] == ["list.csv"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    refused(capsys, tmp_path / "list.csv", tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_disk_that_is_full_at_the_end_loses_nothing(tmp_path, capsys, monkeypatch):
    path = write_csv(tmp_path / "in", 6)

    def full(*_):
        raise OSError(28, "No space left on device", "manifest.json")

    with monkeypatch.context() as patch:
        patch.setattr(manifest, "write", full)
        assert "No space left on device" in refused(capsys, path, tmp_path / "x")
    made = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "x").glob("*array_record*")}
    assert made
    assert len(run("csv", path, tmp_path / "x")) == 6
    assert made == {file.name: file.stat().st_mtime_ns for file in (tmp_path / "x").glob("*array_record*")}


def test_another_command_leaves_a_preparation_that_goes_on_alone(tmp_path, capsys):
    path = write_csv(tmp_path / "in", 6)
    work = tmp_path / "x" / ".prepare-train"
    work.mkdir(parents=True)
    (work / "plan.json").write_text('{"command": "another", "input": {}}')
    (work / "00000.train.7.partial").write_text("under way")
    assert "unfinished preparation of another command" in refused(capsys, path, tmp_path / "x")
    assert (work / "00000.train.7.partial").exists()


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", '{"splits": []}', '{"splits": {"train": {}}}', '{"splits": {"train": []}}', "x",
     "[" * 100_000,
     '{"splits": {"train": {"pairs": 1, "bytes": 1, "command": "", "captions": {"1": 1}, "shards": [7]}}}'],
    ids=range(8),
)  # fmt: skip
def test_a_manifest_that_is_none_is_told(content, tmp_path, capsys):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        inspect.main([str(tmp_path)])
    assert stopped.value.code == 2
    assert "manifest.json: not" in capsys.readouterr().err


def test_what_is_prepared_is_readable_by_whom_other_files_are(prepared):
    mask = os.umask(0)
    os.umask(mask)
    for path in prepared.iterdir():
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask, path


def test_a_file_that_may_not_be_read_is_a_paragraph(tmp_path, capsys, monkeypatch):
    """As root every file may be read, so the refusal is made."""
    (tmp_path / "list.csv").write_text("filepath,title\nnone.jpg,x\n")

    open_file = Path.open

    def refuse(path, *mode, **more):
        if path.name == "list.csv":
            raise PermissionError(13, "Permission denied", str(path))
        return open_file(path, *mode, **more)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SystemExit) as stopped:
        prepare.main(["--source=csv", f"--input={tmp_path / 'list.csv'}", f"--output={tmp_path / 'x'}"])
    assert stopped.value.code == 2
    assert "list.csv: Permission denied" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_folder_without_a_manifest_is_explained(tmp_path, capsys):
    with pytest.raises(SystemExit):
        inspect.main([str(tmp_path)])
    assert "no manifest.json" in capsys.readouterr().err


def test_shrunk_pixels_are_those_of_the_whole_image_resized(tmp_path):
    shades = np.indices((700, 1100)).sum(0)[..., None] // np.array([5, 7, 9]) % 256
    smooth = Image.fromarray(np.abs(shades - 128).astype(np.uint8))
    file = io.BytesIO()
    smooth.save(file, "JPEG", quality=95)
    shrunk = images.decode(images.shrink(file.getvalue(), 128, 95))
    expected = images.decode(file.getvalue()).resize(shrunk.size, Image.Resampling.BICUBIC)
    assert shrunk.size == (201, 128)
    assert np.abs(np.asarray(shrunk, float) - np.asarray(expected, float)).mean() < 2


def test_stopping_by_ctrl_c_says_how_to_go_on(forty, tmp_path):
    words = ["--source", "csv", "--input", forty, "--output", tmp_path / "x", "--workers", "1", "--shard_size", "1"]
    command = [sys.executable, "-m", "rankclip_jax.input_pipeline.prepare", *map(str, words)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while not (tmp_path / "x").exists() and process.poll() is None:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
    if process.returncode:  # it may have been done already
        assert process.returncode == 130
        assert "run the same command again" in error
        assert "Traceback" not in error
