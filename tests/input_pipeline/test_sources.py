"""Captions, names and files mean the same whatever source they come from."""

import csv
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from rankclip_jax.evaluation import suite
from rankclip_jax.input_pipeline import file_names, prepare
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.evaluation_sets import open_set
from rankclip_jax.input_pipeline.evaluation_sets.wording import ClassPrompts
from rankclip_jax.input_pipeline.preparation.folder import Folder
from rankclip_jax.input_pipeline.preparation.pairs import Pair, Skip
from rankclip_jax.input_pipeline.preparation.tfds_dataset import TfdsDataset
from tests.evaluation import layouts
from tests.input_pipeline.test_prepare import ROOT, jpeg, records, run
from tests.input_pipeline.test_tars import tar_of

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow Datasets warns of much
NONE, NOT_UTF_8 = "no caption", "caption is not UTF-8"


def first(source, folder, words):
    """What a source's first image becomes."""
    words = ["--source", source, "--input", str(folder), "--output", str(folder.parent / "x"), *words]
    opened = prepare._open_source(prepare.parse(words))
    return next(item for job in opened.jobs() for item in opened.read(job))


def from_text(folder, text):
    path = folder / "0.tar"
    path.write_bytes(tar_of([("0.jpg", b"image"), ("0.txt", text.encode("utf8", "surrogatepass"))]))
    return first("webdataset", path, [])


def from_json(folder, text):
    facts = json.dumps({"caption": text}).encode()
    (folder / "0.tar").write_bytes(tar_of([("0.jpg", b"image"), ("0.json", facts)]))
    return first("webdataset", folder / "0.tar", [])


def from_folder(folder, text):
    (folder / "0.jpg").write_bytes(b"image")
    (folder / "0.txt").write_bytes(text.encode("utf8", "surrogatepass"))
    return first("folder", folder, [])


def from_table(kind, delimiter):
    def read(folder, text):
        (folder / "0.jpg").write_bytes(b"image")
        with (folder / f"x.{kind}").open("w", newline="", encoding="utf8", errors="surrogatepass") as file:
            csv.writer(file, delimiter=delimiter).writerows([["filepath", "title"], ["0.jpg", text]])
        return first(kind, folder / f"x.{kind}", [])

    return read


def from_tfds(folder, text):
    record = {"image": b"image", "caption": text.encode("utf8", "surrogatepass")}
    return TfdsDataset(folder, "train", "image", "caption", 9)._pair("0", record)


SOURCES = {
    ".txt": from_text, ".json": from_json, "folder": from_folder, "csv": from_table("csv", ","),
    "tsv": from_table("tsv", "\t"), "tfds": from_tfds,
}  # fmt: skip


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" a cat ", "a cat"), ("\ufeffa cat", "a cat"), ("a\0 cat\0", "a cat"), ("\u3000猫\u00a0", "猫"),
        ("👩‍👧", "👩‍👧"),
        (" ", NONE), ("\ufeff", NONE), ("\0", NONE), (" \ufeff \0\t", NONE), ("\u200b\u2060", NONE), ("\x1b", NONE),
        ("\ud83d", NOT_UTF_8), ("a cat \udce9", NOT_UTF_8),
    ],
    ids=ascii,
)  # fmt: skip
def test_a_caption_is_cleaned_alike_in_every_source(source, text, expected, tmp_path):
    (tmp_path / "in").mkdir()
    found = SOURCES[source](tmp_path / "in", text)
    assert (found.captions if isinstance(found, Pair) else found.reason) == (
        expected if expected in (NONE, NOT_UTF_8) else (expected,)
    )


def test_names_of_any_bytes_are_prepared_and_shown_in_utf_8(tmp_path):
    """By a process of its own, whose output refuses what is not UTF-8."""
    for source in ("folder", "webdataset"):
        folder = tmp_path / source / os.fsdecode(b"caf\xe9")
        folder.mkdir(parents=True)
        members = [(os.fsdecode(b"\xe9\x1b[2J%d.jpg" % number), jpeg(number)) for number in range(3)]
        members += [(os.fsdecode(b"\xe9\x1b[2J%d.txt" % number), b"caption %d" % number) for number in range(2)]
        if source == "folder":
            for name, content in members:
                (folder / name).write_bytes(content)
        else:
            (folder / os.fsdecode(b"\xe9.tar")).write_bytes(tar_of(members))
        output = tmp_path / f"{source}.out"
        words = [
            "--source",
            source,
            "--input",
            folder,
            "--output",
            output,
            "--workers",
            "1",
            "--validation_share",
            "0.01",
        ]
        environment = os.environ | {"PYTHONIOENCODING": "utf8:strict", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "rankclip_jax.input_pipeline.prepare", *map(os.fspath, words)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        said = done.stdout.decode()
        assert r"skipped 1: no caption, such as" in said
        assert r"\udce9\x1b[2J2" in said
        assert "\x1b" not in said
        keys = [record["key"] for record in _raw(output)]
        assert len(keys) == 2
        assert all(key.isprintable() and r"\udce9" in key for key in keys)


def test_an_output_that_is_not_utf_8_is_refused(tmp_path, capsys):
    output = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(SystemExit):
        prepare.main(["--source", "folder", "--input", str(tmp_path), "--output", str(output)])
    assert r"caf\udce9 is not UTF-8" in capsys.readouterr().err


def _raw(output):
    import tensorflow_datasets as tfds

    source = tfds.builder_from_directory(output).as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    return [{name: value.decode() for name, value in record.items() if name == "key"} for record in source]


def test_a_name_is_printable_wherever_it_comes_from():
    for made in (Pair("a\nb\udce9\u202e", b"", ("x",)).key, Skip("x", "a\nb\udce9\u202e").name):
        assert made == r"a\nb\udce9\u202e"


def test_every_file_of_a_folder_is_a_pair_or_counted(tmp_path):
    folder = tmp_path / "in"
    for name in (
        "a.JFIF", "b.jpe", "c.webp", ".ipynb_checkpoints/a-checkpoint.jpg", "__MACOSX/._a.jpg", ".DS_Store", "d.heic",
        "e.JP2", "f.svg", "g.mp4", "alone.txt", "Thumbs.db", "nothing", ".git/config", "deep/.hidden/h.png",
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(1))
    for name in ("a.txt", "b.TXT", "c.txt"):
        (folder / name).write_text(f"caption {name[0]}")
    found = run("folder", folder, tmp_path / "x")
    assert [record["text"] for record in found] == [["caption a"], ["caption b"], ["caption c"]]
    source = Folder(folder, 4)
    skipped = [item for job in source.jobs() for item in source.read(job) if isinstance(item, Skip)]
    expected = {
        "hidden file": [".ipynb_checkpoints/a-checkpoint.jpg", "__MACOSX/._a.jpg", "deep/.hidden/h.png"],
        ".heic is not among the formats that are read": ["d.heic"],
        ".jp2 is not among the formats that are read": ["e.JP2"],
        ".svg is not among the formats that are read": ["f.svg"],
        "not an image": ["Thumbs.db", "g.mp4", "nothing"],
        "no image": ["alone.txt"],
    }
    assert {(skip.reason, skip.name) for skip in skipped} == {(why, name) for why in expected for name in expected[why]}
    assert len(skipped) == 10
    (tmp_path / "none" / "sub").mkdir(parents=True)
    (tmp_path / "none" / "sub" / "a.heic").write_bytes(b"")
    with pytest.raises(UserError, match=r"expected images .*; found 1 \.heic"):
        next(Folder(tmp_path / "none", 4).jobs())


def test_hidden_folders_are_no_classes_and_other_files_are_counted(tmp_path, caplog):
    for name in ("a/0.avif", "a/1.jfif", "a/2.heic", "b/0.TIF", "b/._0.TIF", ".ipynb_checkpoints/a.png",
                 "__MACOSX/b.png", "b/.ipynb_checkpoints/0.png", "beside.png", "readme.txt"):  # fmt: skip
        (tmp_path / "test" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "test" / name).write_bytes(b"x")
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a {c}")
    found = open_set("folder", tmp_path, "test", ClassPrompts())
    with_avif = ".avif" in file_names.IMAGE_SUFFIXES
    names = (["0.avif"] if with_avif else []) + ["1.jfif", "0.TIF"]
    assert found.truth.classes.names == ("a", "b")
    assert [path.name for path in found.paths] == names
    assert ("1 .heic, 1 .png" if with_avif else "1 .avif, 1 .heic, 1 .png") in caplog.text


def test_a_folder_of_a_class_may_have_any_name(tmp_path):
    for name in (b"caf\xe9", b"b"):
        (tmp_path / "test" / os.fsdecode(name)).mkdir(parents=True)
        (tmp_path / "test" / os.fsdecode(name) / "0.png").write_bytes(b"x")
    (tmp_path / "zeroshot_classification_templates.txt").write_text("a {c}")
    assert open_set("folder", tmp_path, "test", ClassPrompts()).truth.classes.names == ("b", r"caf\udce9")


def add_marks(folder):
    """A byte-order mark to every text file, also to those in tars."""
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if path.suffix in (".txt", ".csv", ".json", ".tsv"):
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def described(source):
    truth = source.truth
    classes = truth.classes and (
        truth.classes.names,
        truth.classes.prompts,
        truth.classes.labels(range(len(source))).tolist(),
    )
    return (
        classes,
        truth.choices,
        [(item["image"], item["text"]) for item in map(source.__getitem__, range(len(source)))],
    )


def labelled_list(folder):
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(b"x")
    rows = "".join(f"{('test', 'train')[number % 2]},{number % 2},{number}.png\n" for number in range(4))
    (folder / "x.csv").write_text(f"split,label,filepath\n{rows}")
    (folder / "y.csv").write_text("label,filepath\n0,0.png\n1,1.png\n")
    (folder / "classnames.txt").write_text("cat\ndog\n")
    (folder / "zeroshot_classification_templates.txt").write_text("a {c}\n")


@pytest.mark.parametrize(
    ("make", "form", "file", "split"),
    [
        (layouts.classification, "webdataset", "", "test"), (layouts.multilabel, "webdataset", "", "test"),
        (layouts.captions, "webdataset", "", "test"), (layouts.sugar_crepe, "sugar_crepe", "", "swap_att"),
        (layouts.winogavil, "winogavil", "", "test"), (labelled_list, "csv", "x.csv", "test"),
        (labelled_list, "csv", "y.csv", "test"),
    ],
)  # fmt: skip
def test_a_byte_order_mark_changes_nothing_of_an_evaluation_set(make, form, file, split, tmp_path):
    make(tmp_path / "set")
    before = described(open_set(form, tmp_path / "set" / file, split, ClassPrompts()))
    add_marks(tmp_path / "set")
    assert described(open_set(form, tmp_path / "set" / file, split, ClassPrompts())) == before


def test_a_byte_order_mark_changes_nothing_of_suites_and_wordings(tmp_path):
    mark = "\ufeff"
    layouts.suite(tmp_path / "s.json", {"name": "a", "task": "zero_shot", "format": "webdataset", "path": "x"})
    before = suite.read(tmp_path / "s.json")
    (tmp_path / "s.json").write_text(mark + (tmp_path / "s.json").read_text())
    assert suite.read(tmp_path / "s.json") == before
    (tmp_path / "names.json").write_text(mark + '["a", "b"]')
    (tmp_path / "names.txt").write_text(mark + "a\nb\n")
    (tmp_path / "templates.json").write_text(mark + '{"a": ["x"], "b": ["y"]}')
    for names in ("names.json", "names.txt"):
        found = ClassPrompts(names, "templates.json", tmp_path).classes(None, None, len)
        assert (found.names, found.prompts) == (("a", "b"), [["x"], ["y"]])


@pytest.mark.parametrize("count", ["99999999999", "9" * 5000, "-1", "0", "1.5", "²", "x"])
def test_a_count_of_tars_that_cannot_be_is_refused_at_once(count, tmp_path):
    layouts.classification(tmp_path)
    (tmp_path / "test" / "nshards.txt").write_text(count)
    with pytest.raises(UserError, match=r"nshards\.txt: expected the number of tars|1\.tar: missing"):
        open_set("webdataset", tmp_path, "test", ClassPrompts())


def test_a_file_cannot_name_others_outside_its_folder(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "in").mkdir()
    for name in ("../secret.png", str(tmp_path / "secret.png")):
        row = {"filename": name, "caption": "a", "negative_caption": "b"}
        (tmp_path / "in" / "test.json").write_text(json.dumps([row]))
        with pytest.raises(UserError, match="expected names of files in"):
            open_set("sugar_crepe", tmp_path / "in", "test", ClassPrompts())


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "\ud83d"])
def test_a_name_that_no_file_can_have_is_missing(name, tmp_path):
    row = {"filename": name, "caption": "a", "negative_caption": "b"}
    (tmp_path / "test.json").write_text(json.dumps([row]))
    with pytest.raises(UserError, match="1 of 1 images are missing, for example"):
        open_set("sugar_crepe", tmp_path, "test", ClassPrompts())
    with pytest.raises(UserError, match=r"nothing at|File name too long"):
        open_set("webdataset", Path(name), "test", ClassPrompts())


def test_prepared_tars_of_img2dataset_keep_their_captions(tmp_path):
    """As `--source urls` reads them: the text file, and the JSON's field where there is none."""
    facts = json.dumps({"caption": "from JSON", "url": "http://a"}).encode()
    members = [("0.jpg", jpeg(0)), ("0.json", facts), ("0.txt", b"from text"), ("1.jpg", jpeg(1)), ("1.json", facts)]
    (tmp_path / "0.tar").write_bytes(tar_of(members, format=tarfile.GNU_FORMAT))
    assert [record["text"] for record in run("webdataset", tmp_path, tmp_path / "x")] == [["from text"], ["from JSON"]]
    other = run("webdataset", tmp_path, tmp_path / "y", "--caption_key", "caption")
    assert [record["text"] for record in other] == [["from JSON"], ["from JSON"]]
    assert len(records(tmp_path / "y")) == 2
