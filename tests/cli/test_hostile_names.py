"""What files are called and hold never steers the terminal, and never looks like a line of ours, in any command."""

import io
import json
import logging
import re
import shutil
import tarfile
import unicodedata

import pytest
from PIL import Image

from rankclip_jax.cli import console
from rankclip_jax.evaluation import suite_run
from rankclip_jax.evaluation.tasks import Task
from rankclip_jax.evaluation.zero_shot import ZeroShot
from rankclip_jax.input_pipeline import inspect, prepare
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.explained import ExitOnUserError, PrintableFormatter
from rankclip_jax.monitoring.events import Events
from tests.commands import run
from tests.interop.conftest import make_run

LINE = "All shards are present, and their checksums match."
EVIL = f"a\x1b[2J\x1b]0;owned\x07\r\n{LINE}\n\x85\u2028{LINE}\u202e\x9b31m\x00\x7f"
FILE = EVIL.replace("/", "").replace("\0", "")[:100]  # what a file can be called
PROGRESS = re.compile(r"\r[^\r\n\x1b]*(?=[\r\n]|$)")  # tqdm's, on a line that it renews


def check(*outputs, quoted=True):
    """No control character but line ends, no line that begins as one of ours, and the name is there, escaped."""
    text = "\n".join(PROGRESS.sub("", output) for output in outputs)
    bad = [letter for letter in text if unicodedata.category(letter)[0] == "C" and letter != "\n"]
    assert not bad, text
    assert not [line for line in re.split(r"[\n\x85\u2028]", text) if line.startswith(LINE)], text
    assert not quoted or r"\x1b[2J" in text or r"\\x1b[2J" in text, text


def image(size=8):
    file = io.BytesIO()
    Image.new("RGB", (size, size), "red").save(file, "PNG")
    return file.getvalue()


def add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def tar_of(folder):
    path = folder / "0.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "0.png", image())
        add(tar, "0.txt", b"whole")
        for number, (suffix, content) in enumerate(((".png", b"none"), (".txt", b"alone"), (".png", image()))):
            add(tar, f"{FILE}{number}{suffix}", content)
        add(tar, f"{FILE}9.png", b"no image")
        add(tar, f"{FILE}9.txt", EVIL.encode())
        add(tar, f"../{FILE}.txt", b"")
    return "webdataset", path


def table_of(folder):
    (folder / "0.png").write_bytes(image())
    path = folder / "list.csv"
    quoted = EVIL.replace("\0", "")
    path.write_text(f'filepath,title\n0.png,whole\n"{quoted}",gone\n0.png,"{quoted}"\n"{quoted}.png"\n')
    return "csv", path


def local_path(folder):
    place = folder / "images"
    place.mkdir()
    for name, content, caption in (("0", image(), "whole"), (FILE, b"none", EVIL), (f"{FILE}1", image(), None)):
        (place / f"{name}.png").write_bytes(content)
        if caption:
            (place / f"{name}.txt").write_text(caption)
    return "folder", place


def gone(folder):
    return "folder", folder / FILE


@pytest.mark.filterwarnings("ignore")  # TensorFlow Datasets warns of much
@pytest.mark.parametrize("source", [tar_of, table_of, local_path, gone])
def test_preparation_and_inspection(source, tmp_path):
    kind, path = source(tmp_path)
    output = tmp_path / "data"
    words = ["--source", kind, "--input", path, "--output", output, "--workers", 1]
    done = run(prepare.__name__, *words, status=2 if source is gone else 0)
    check(done.stdout, done.stderr)
    if source is gone:
        return
    done = run(inspect.__name__, output, "--pairs", "3")
    assert done.stdout.endswith(f"{LINE}\n")
    check(done.stdout.removesuffix(f"{LINE}\n"), done.stderr)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run whose files and settings have such names."""
    folder = make_run(tmp_path_factory.mktemp("hostile") / "run")
    events = [{"event": EVIL}, {"event": f"\n{LINE}", "host": EVIL}]
    (folder / "events.jsonl").write_text("\n".join(map(json.dumps, events)) + "\n")
    beat = {"time": 0.0, "step": 1, "doing": EVIL, "seconds": 1.0, "process": 0, "host": EVIL}
    (folder / "heartbeat.json").write_text(json.dumps(beat))
    (folder / "checkpoints" / FILE).mkdir()
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "0.json").write_text(json.dumps({f"<script>{EVIL}": 0.5}))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "words", "status"),
    [
        ("status", ["--workdir", "{run}"], 0),
        ("status", ["--workdir", "{evil}"], 2),
        ("verify", ["--workdir", "{damaged}"], 1),
        ("verify", ["--workdir", "{evil}"], 2),
        ("report", ["--workdir", "{run}", "--output", "{folder}/report.html"], 0),
        ("report", ["--workdir", "{run}", "{evil}", "--output", "{folder}/report.html"], 2),
        ("evaluate", ["--workdir", "{evil}"], 2),
        ("export", ["--workdir", "{evil}", "--format", "rankclip", "--output", "{folder}/a.pt"], 2),
        ("explore", ["--model", "{run}", "--data", "{evil}"], 2),
        ("train", ["--config", "{evil}"], 2),
        ("train", ["--config", "csv_small", "--workdir", "{folder}/new", "--config.data.train={evil}.csv"], 2),
        ("plan", ["--config", "demo", "--topology", EVIL.replace("\0", "")], 2),
        ("benchmark", [EVIL.replace("\0", "")], 2),
    ],
)
def test_commands_that_read_a_run(command, words, status, workdir, tmp_path):
    places = {"run": workdir, "evil": tmp_path / FILE, "folder": tmp_path, "damaged": tmp_path / "damaged"}
    if "{damaged}" in words:
        shutil.copytree(workdir, places["damaged"])
        place = places["damaged"] / "checkpoints" / "0" / FILE
        place.write_text("of nobody")
    done = run(command, *(word.format(**places) for word in words), status=status)
    check(done.stdout, done.stderr, quoted=command != "report" or status == 2)
    if command == "report" and not status:
        page = (tmp_path / "report.html").read_text()
        assert "<script" not in page
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", page)


@pytest.mark.slow
def test_a_training_over_files_with_such_names(tmp_path):
    (tmp_path / f"{FILE}.png").write_bytes(b"none")
    (tmp_path / "0.png").write_bytes(image(40))
    rows = "".join(f"0.png,whole {number}\n" for number in range(12))
    quoted = f"{FILE}.png"
    (tmp_path / "list.csv").write_text(f'filepath,title\n{rows}"{quoted}","{EVIL[:-2]}"\n')
    done = run(
        "train", "--config", "csv_small", "--workdir", tmp_path / "run", f"--config.data.train={tmp_path}/list.csv",
        "--config.data.delimiter=,", "--config.data.validation=", "--config.train.steps=4",
        "--config.train.global_batch_size=8", "--config.data.max_unreadable_fraction=0.9", "--config.data.workers=0",
    )  # fmt: skip
    check(done.stdout, done.stderr)


def test_the_log_keeps_inserted_words_on_their_line():
    shown = PrintableFormatter("%(message)s")
    record = logging.LogRecord("a", logging.WARNING, "", 0, "ours\nours %s, %d", (EVIL, 3), None)
    assert shown.format(record).splitlines()[0] == "ours"
    check(shown.format(record))
    record = logging.LogRecord("a", logging.WARNING, "", 0, "%(name)s", ({"name": EVIL},), None)
    check(shown.format(record).replace(LINE, "", 1).replace("\n", " "))
    assert record.args == {"name": EVIL}  # other handlers see it whole


def test_paragraphs_lines_and_events(capsys, tmp_path):
    with pytest.raises(SystemExit), ExitOnUserError("rankclip_jax", ""):
        raise UserError(f"{EVIL}: cannot be read")
    with pytest.raises(SystemExit), ExitOnUserError("rankclip_jax", ""):
        raise FileNotFoundError(2, "No such file", EVIL)
    console.renew(EVIL)
    Events(tmp_path).say(EVIL)
    check(*capsys.readouterr())


def test_suites(capsys, tmp_path):
    task = Task(EVIL, ZeroShot(), "zero_shot", "gone", "webdataset")
    _, faults = suite_run.run(
        [task], tmp_path / "suite.json", tmp_path, None, suite_run.Identity("m", "p", "d"), tmp_path
    )
    print(suite_run.format_table([task], {}, faults))
    check(*capsys.readouterr())
