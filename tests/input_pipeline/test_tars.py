"""Tars as people have them: nothing of them is lost without being counted, and none takes much memory."""

import gzip
import io
import json
import shutil
import subprocess
import tarfile
import tracemalloc
from collections import Counter

import pytest

from rankclip_jax.input_pipeline import tars
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.evaluation_sets import open_set
from rankclip_jax.input_pipeline.evaluation_sets.wording import ClassPrompts
from rankclip_jax.input_pipeline.preparation import webdataset
from rankclip_jax.input_pipeline.preparation.pairs import Pair
from rankclip_jax.input_pipeline.preparation.webdataset import WebDataset

SAMPLES = [("0.jpg", b"image 0"), ("0.txt", b"text 0"), ("1.jpg", b"image 1"), ("1.txt", b"text 1")]
PAIRS = [(b"image 0", "text 0"), (b"image 1", "text 1")]


def tar_of(members, **options):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **options) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def read(path, content=None, **options):
    """The pairs of a tar, and what was skipped by reason."""
    if content is not None:
        path.write_bytes(content)
    found = list(WebDataset(path, **options).read(path))
    pairs = [(item.image, item.captions[0]) for item in found if isinstance(item, Pair)]
    return pairs, Counter(item.reason for item in found if not isinstance(item, Pair))


def gnu_tar(folder, *words):
    if shutil.which("tar") is None:
        pytest.skip("needs the command tar")
    subprocess.run(["tar", *words], cwd=folder, check=True)


def write_files(folder):
    folder.mkdir()
    for name, content in SAMPLES:
        (folder / name).write_bytes(content)


def test_members_that_do_not_stand_together_are_found(tmp_path):
    write_files(tmp_path / "in")
    gnu_tar(tmp_path / "in", "cf", "../x.tar", "1.jpg", "0.jpg", "0.txt", "1.txt")
    assert read(tmp_path / "x.tar") == ([PAIRS[0], PAIRS[1]], {})
    gnu_tar(tmp_path / "in", "czf", "../x.tgz", "1.jpg", "0.jpg", "1.txt", "0.txt")
    assert read(tmp_path / "x.tgz") == ([PAIRS[1], PAIRS[0]], {})


def test_tars_one_after_the_other_are_all_read(tmp_path):
    first, second = tar_of(SAMPLES[:2]), tar_of(SAMPLES[2:])
    for content in (first + second, gzip.compress(first) + gzip.compress(second), gzip.compress(first + second)):
        assert read(tmp_path / "x.tar", content) == (PAIRS, {})
    assert read(tmp_path / "x.tar", first + b"not a tar" * 100) == (PAIRS[:1], {"damaged tar": 1})


def test_a_tar_that_the_command_has_added_to_is_read_whole(tmp_path):
    write_files(tmp_path / "in")
    gnu_tar(tmp_path / "in", "cf", "../x.tar", "0.jpg", "0.txt")
    (tmp_path / "in" / "0.txt").write_bytes(b"another")
    gnu_tar(tmp_path / "in", "rf", "../x.tar", "1.jpg", "1.txt", "0.txt")
    assert read(tmp_path / "x.tar") == (PAIRS, {"no image": 1})


@pytest.mark.parametrize("form", ["v7", "ustar", "gnu", "posix", "oldgnu"])
def test_every_form_of_the_command_is_read(form, tmp_path):
    write_files(tmp_path / "in")
    gnu_tar(tmp_path, "cf", "x.tar", f"--format={form}", "-C", "in", ".")
    pairs, skipped = read(tmp_path / "x.tar")
    assert (sorted(pairs), skipped) == (PAIRS, {})


def test_links_and_files_with_holes_are_counted(tmp_path):
    write_files(tmp_path / "in")
    for name in ("1.jpg", "1.txt"):
        (tmp_path / "in" / name).unlink()
        (tmp_path / "in" / name).hardlink_to(tmp_path / "in" / name.replace("1", "0"))
    with (tmp_path / "in" / "2.jpg").open("wb") as file:
        file.truncate(1 << 20)
    gnu_tar(tmp_path / "in", "cSf", "../x.tar", "--sort=name", ".")
    assert read(tmp_path / "x.tar") == (PAIRS[:1], {"not a regular file": 3})


def test_what_macos_puts_beside_files_is_no_sample(tmp_path):
    own = [(f"{folder}._{name}", b"\0\5\x16\7") for name, _ in SAMPLES for folder in ("", "__MACOSX/")]
    members = [
        (".DS_Store", b"x"),
        ("__MACOSX/2.jpg", b"x"),
        *(member for pair in zip(own[::2], SAMPLES, strict=True) for member in pair),
        *own[1::2],
    ]
    assert read(tmp_path / "x.tar", tar_of(members)) == (PAIRS, {"hidden file": 10})
    (tmp_path / "._y.tar").write_bytes(b"\0\5\x16\7")
    assert list(WebDataset(tmp_path).jobs()) == [tmp_path / "x.tar"]


def test_of_several_members_of_a_kind_the_first_counts_and_the_others_are_counted(tmp_path):
    members = [("0.jpg", b"a"), ("0.png", b"b"), ("0.JPG", b"c"), ("0.txt", b"x"), ("0.txt", b"y"), ("0.seg.png", b"d")]
    expected = {"doubled member": 3, "image whose name has more dots": 1}
    assert read(tmp_path / "x.tar", tar_of(members)) == ([(b"a", "x")], expected)


def test_an_image_of_a_format_that_is_not_read_is_counted_by_its_suffix(tmp_path):
    members = [("0.heic", b"a"), ("0.txt", b"x"), ("1.JP2", b"a"), ("1.txt", b"x"), ("2.jfif", b"a"), ("2.txt", b"x")]
    expected = {f"{suffix} is not among the formats that are read": 1 for suffix in (".heic", ".jp2")}
    assert read(tmp_path / "x.tar", tar_of(members)) == ([(b"a", "x")], expected)


@pytest.mark.parametrize("content", [b"BZh9", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"])
def test_other_compression_is_said(content, tmp_path):
    assert read(tmp_path / "x.tar", content + b"x" * 600) == ([], {"compressed otherwise than by gzip": 1})


def test_what_ends_too_early_is_counted_wherever_that_is(tmp_path):
    whole = tar_of(SAMPLES)
    end = len(SAMPLES) * 1024
    assert whole[end:].count(0) == len(whole) - end
    for length in range(0, end + 1, 128):
        pairs, skipped = read(tmp_path / "x.tar", whole[:length])
        assert skipped["damaged tar"] == 1, length
        assert len(pairs) == (length >= 1542) + (length >= 3590), length  # where the captions end
    for length in (end + 512, end + 1024, len(whole)):
        assert read(tmp_path / "x.tar", whole[:length]) == (PAIRS, {})
    packed = gzip.compress(whole, 1)
    for length in range(0, len(packed), 20):
        assert read(tmp_path / "x.tar.gz", packed[:length])[1]["damaged tar"] == 1, length
    for place in range(20, len(packed), 20):
        damaged = packed[:place] + bytes([packed[place] ^ 0xFF]) + packed[place + 1 :]
        assert read(tmp_path / "x.tar.gz", damaged)[1]["damaged tar"] == 1, place


def test_a_damaged_header_in_the_middle_is_no_end(tmp_path):
    content = bytearray(tar_of(SAMPLES))
    content[2048 + 3] ^= 1
    assert read(tmp_path / "x.tar", bytes(content)) == (PAIRS[:1], {"damaged tar": 1})


def test_headers_that_lie_neither_loop_nor_fill_the_memory(tmp_path):
    header = tarfile.TarInfo("._0.jpg")
    header.size = -512  # so that the next header is this one
    negative = header.tobuf(tarfile.GNU_FORMAT)
    nested = tarfile.TarInfo("x")
    nested.type = tarfile.GNUTYPE_LONGNAME
    huge = tarfile.TarInfo("x")
    huge.type, huge.size = tarfile.XHDTYPE, 1 << 40
    named = tar_of([("0.jpg", b"")], format=tarfile.PAX_FORMAT, pax_headers={"a": "b"})[:1536]
    for content in (
        tar_of(SAMPLES)[:2048] + negative * 3,
        nested.tobuf() * 3000,
        huge.tobuf(tarfile.GNU_FORMAT),
        named * 100,
    ):
        assert read(tmp_path / "x.tar", content)[1]["damaged tar"] == 1


@pytest.mark.parametrize("key", ["title", "caption,title", ""])
def test_an_explicit_key_of_the_json_wins_over_the_text_file(key, tmp_path):
    facts = json.dumps({"title": "from JSON"}).encode()
    members = [("0.jpg", b"a"), ("0.txt", b"from text"), ("0.json", facts), ("1.txt", b"text"), ("1.jpg", b"b")]
    pairs, skipped = read(tmp_path / "x.tar", tar_of(members), caption_key=key)
    if key:
        assert (pairs, skipped) == ([(b"a", "from JSON")], {f"no {key!r} in the JSON": 1})
    else:
        assert (pairs, skipped) == ([(b"a", "from text"), (b"b", "text")], {})


def test_several_keys_give_several_captions(tmp_path):
    members = [("0.jpg", b"a"), ("0.json", b'\xef\xbb\xbf{"a": "one", "b": ["two", 3, "three"], "c": 4}')]
    (tmp_path / "x.tar").write_bytes(tar_of(members))
    (pair,) = WebDataset(tmp_path / "x.tar", "a,b,c,d").read(tmp_path / "x.tar")
    assert pair.captions == ("one", "two", "three")


def peak_of(path):
    """What was read, and the most memory at once; the least of three times, since other threads allocate too."""
    peaks = []
    for _ in range(3):
        tracemalloc.start()
        counts = Counter(type(item).__name__ for item in WebDataset(path).read(path))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    return counts, min(peaks)


def test_the_bytes_of_a_sample_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "LARGEST_IMAGE", 1 << 20)
    zeros = bytes(1 << 20)
    members = [(f"0.{suffix}", zeros) for suffix in ("jpg", "png", "gif", "cls", "npy", "mp4", "a", "b", "c", "jpeg")]
    members += [("0.txt", b"x"), ("1.jpg", zeros * 2), ("1.txt", b"x"), ("2.jpg", b"x"), ("2.txt", zeros * 5)]
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(tar_of(members), 1))
    counts, peak = peak_of(tmp_path / "x.tar.gz")
    assert counts == {"Pair": 1, "Skip": 5}
    assert peak < 6 << 20  # an image, another that is read and dropped, and what unpacking takes
    assert read(tmp_path / "x.tar.gz")[1] == {"doubled member": 3, "too many bytes": 2}


@pytest.mark.parametrize("name", ["0.jpg", "{}.jpg", "{}.txt", "{}.cls", "{}", "._{}", "0.{}"])
def test_millions_of_members_take_no_more_memory_than_thousands(name, tmp_path, monkeypatch):
    monkeypatch.setattr(webdataset, "_MAX_PENDING", 100)
    peaks = []
    for count in (500, 2500):
        headers = b"".join(tarfile.TarInfo(name.format(number)).tobuf() for number in range(count))
        (tmp_path / "x.tar").write_bytes(headers + bytes(1024))
        counts, peak = peak_of(tmp_path / "x.tar")
        assert counts["Skip"] == (count if name != "0.{}" else 1)
        peaks.append(peak)
    assert peaks[1] < peaks[0] + (1 << 17)


def evaluation_set(folder, content, kind="classification"):
    (folder / "test").mkdir(parents=True, exist_ok=True)
    (folder / "test" / "0.tar").write_bytes(content)
    (folder / "test" / "nshards.txt").write_text("1")
    (folder / "dataset_type.txt").write_text(kind)
    (folder / "classnames.txt").write_text("a\nb")
    (folder / "zeroshot_classification_templates.txt").write_text("a {c}")
    return open_set("webdataset", folder, "test", ClassPrompts())


LABELLED = [("d.x/0.jpg", b"image 0"), ("d.x/0.cls", b"1"), ("1.PNG", b"image 1"), ("1.cls", b"0")]


def test_an_evaluation_set_of_any_order_with_what_macos_adds_is_read(tmp_path):
    own = [(f"._{name.rpartition('/')[2]}", b"\0\5\x16\7") for name, _ in LABELLED]
    for members in (LABELLED, [*own, *LABELLED, ("README", b"x"), ("0.md", b"x")], sorted(LABELLED)):
        found = evaluation_set(tmp_path, tar_of(members))
        images = {found[number]["image"]: label for number, label in enumerate(found.truth.classes.labels([0, 1]))}
        assert images == {b"image 0": 1, b"image 1": 0}
    both = evaluation_set(tmp_path, tar_of(LABELLED[:2]) + tar_of(LABELLED[2:]))
    assert [both[number]["image"] for number in range(len(both))] == [b"image 0", b"image 1"]


def test_of_a_samples_images_the_one_counts_that_counts_for_clip_benchmark(tmp_path):
    images = [("0.jpeg", b"d"), ("0.jpg", b"c"), ("0.png", b"b"), ("0.webp", b"a")]
    found = evaluation_set(tmp_path, tar_of([*images, ("0.cls", b"1"), ("1.cls", b"0"), ("1.tif", b"e")]))
    assert [found[0]["image"], found[1]["image"]] == [b"a", b"e"]


LINK = tarfile.TarInfo("1.jpg")
LINK.type, LINK.linkname = tarfile.LNKTYPE, "0.jpg"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (tar_of(LABELLED)[:4096], "no end mark: is the file cut off"),
        (tar_of(LABELLED)[:4000], "damaged tar"),
        (tar_of(LABELLED)[:2048] + b"x" + tar_of(LABELLED)[2049:], "bytes that are no header"),
        (tar_of(LABELLED[:3]), "1 has an image, but no .cls"),
        (tar_of(LABELLED[1:]), "d.x/0 has a .cls, but no image"),
        (tar_of([*LABELLED, LABELLED[0]]), "d.x/0.jpg is a duplicate member"),
        (tar_of([*LABELLED, LABELLED[1]]), "d.x/0.cls is a duplicate member"),
        (LINK.tobuf() + tar_of(LABELLED), "not a regular file"),
        (tar_of([("\x1b[2J.jpg", b"x")]), r"\x1b[2J has an image"),
        (tar_of([("caf\udce9.jpg", b"x")]), r"caf\udce9 has an image"),
        (b"BZh9" + bytes(600), "compressed otherwise"),
        (tar_of([]), "expected samples in the tars; found none"),
    ],
)
def test_an_evaluation_set_that_lacks_something_is_refused(content, words, tmp_path):
    with pytest.raises(UserError) as raised:
        evaluation_set(tmp_path, content)
    assert words in str(raised.value)


def test_labels_and_images_of_an_evaluation_set_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "LARGEST_IMAGE", 10)
    monkeypatch.setattr(tars, "LARGEST_TEXT", 10)
    for suffix in ("jpg", "cls"):
        members = {"jpg": b"x", "cls": b"1"} | {suffix: b" " * 11}
        with pytest.raises(UserError, match=rf"0\.{suffix} has 11 bytes; expected at most 10"):
            evaluation_set(tmp_path, tar_of([(f"0.{name}", content) for name, content in members.items()]))
