"""Downloads by img2dataset from a web server that is slow, dead, redirecting, oversized and lying."""

import csv
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rankclip_jax.input_pipeline import prepare
from rankclip_jax.input_pipeline.preparation import manifest, urls
from rankclip_jax.input_pipeline.preparation.pairs import describe_file
from tests.input_pipeline.test_prepare import captions, jpeg, records

ROOT = Path(__file__).parent.parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        kind, _, number = self.path.strip("/").partition("/")
        if kind == "redirect":
            self.answer(b"", 302, {"Location": f"/good/{number}"})
        elif kind == "missing":
            self.answer(b"", 404)
        elif kind == "page":
            self.answer(b"<html>not an image</html>")
        elif kind == "private":
            self.answer(jpeg(int(number)), headers={"X-Robots-Tag": "noai"})
        elif kind == "cut":
            self.answer(jpeg(int(number))[:900])
        elif kind == "large":
            self.answer(jpeg(int(number), 3000, 2000))
        else:
            time.sleep({"slow": 1.0, "stuck": 30.0}.get(kind, 0))
            self.answer(jpeg(int(number)))

    def answer(self, content, status=200, headers=None):
        self.send_response(status)
        for name, value in (
            {"Content-Type": "image/jpeg", "Content-Length": str(len(content))} | (headers or {})
        ).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.daemon_threads = [], True
        server.handle_error = lambda *_: None  # a client that gave up
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module", autouse=True)
def img2dataset():
    """The environment of its own, made as a user makes it."""
    subprocess.run(["make", "img2dataset", f"PYTHON={sys.executable}"], cwd=ROOT, check=True, capture_output=True)


def write_list(path, server, kinds):
    """Lines as CC12M's: no column names, the url first."""
    address = f"http://127.0.0.1:{server.server_port}"
    lines = [f"{address}/{kind}/{number}\tpicture {number}, {kind}" for number, kind in enumerate(kinds)]
    path.write_text("\n".join([*lines, "http://127.0.0.1:9/dead\tdead", "file:///etc/hostname\tfile", "x"]) + "\n")
    return path


def arguments(path, output, *more):
    return ["--source", "urls", "--input", str(path), "--output", str(output), "--workers", "2", "--shard_size", "6",
            "--download_threads", "4", "--img2dataset=--timeout 2 --retries 0", *more]  # fmt: skip


def test_what_can_be_had_is_prepared_and_the_rest_counted_by_reason(server, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    kinds = ["good", "redirect", "missing", "slow", "page", "private", "cut", "large", "stuck", 'good" quoted', "good"]
    path = write_list(tmp_path / "list.tsv", server, [kind.split()[0].strip('"') for kind in kinds])
    path.write_text(path.read_text().replace("picture 9,", 'picture "9,'))
    prepare.main(arguments(path, tmp_path / "x", "--shrink", "256"))
    found = records(tmp_path / "x")
    assert sorted(captions(found)) == sorted(
        ["picture 0, good", "picture 1, redirect", "picture 3, slow", "picture 7, large", 'picture "9, good',
         "picture 10, good"]
    )  # fmt: skip
    by_caption = dict(zip(captions(found), found, strict=True))
    assert by_caption["picture 3, slow"]["image"] == jpeg(3)
    skipped = {reason: entry["count"] for reason, entry in
               manifest.read(tmp_path / "x")["splits"]["train"]["skipped"].items()}  # fmt: skip
    assert skipped.pop("not a web address") == 1
    assert skipped.pop("too few columns") == 1
    assert skipped.pop("unreadable image") == 2
    failed = " ".join(skipped)
    for reason in ("404", "refused", "timed out", "disallowed"):
        assert reason in failed
    assert sum(skipped.values()) == 4
    assert not list((tmp_path / "x").glob(".prepare*"))


def test_a_killed_download_goes_on_and_fetches_no_finished_shard_again(server, tmp_path):
    path = write_list(tmp_path / "list.tsv", server, ["good"] * 6 + ["slow"] * 24)
    command = [sys.executable, "-m", "rankclip_jax.input_pipeline.prepare", *arguments(path, tmp_path / "x")]
    finished = tmp_path / "x" / ".prepare-train" / "download" / "00000_stats.json"
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not finished.exists() and process.poll() is None:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    assert finished.exists()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path / "x")) == 30
    assert all(server.asked.count(f"/good/{number}") == 1 for number in range(6))


def test_another_list_is_not_mixed_with_an_unfinished_download(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (tmp_path / "list").write_text("file:///etc/hostname\ta\nhttps\tb\n")
    with pytest.raises(SystemExit):
        prepare.main(arguments(tmp_path / "list", tmp_path / "x"))
    assert "has no column 'url'" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    work, words = tmp_path / "x" / ".prepare-train", arguments(tmp_path / "list", tmp_path / "x")
    (work / "download").mkdir(parents=True)
    plan = {"command": prepare._command(prepare.parse(words)), "input": describe_file(tmp_path / "list")}
    (work / "plan.json").write_text(json.dumps(plan))
    (tmp_path / "list").write_text("url\tcaption\nfile:///etc/hostname\ta\n")
    with pytest.raises(SystemExit):
        prepare.main(arguments(tmp_path / "list", tmp_path / "x"))
    assert "of an input that has since changed" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        prepare.main(arguments(tmp_path / "list", tmp_path / "y"))
    assert "expected rows with a URL (http:// or https://); found none" in capsys.readouterr().err


def test_lists_with_and_without_column_names_are_understood(tmp_path):
    for text, delimiter in (
        ('a cat\thttp://a/1.jpg\na "dog\thttp://a/2.jpg\n', "\t"),  # CC3M's
        ('http://a/1.jpg\ta cat\nhttp://a/2.jpg\ta "dog\n', "\t"),  # CC12M's
        ('caption,url,size\na cat,http://a/1.jpg,3\n"a ""dog",http://a/2.jpg,4\n', ","),
    ):
        (tmp_path / "list").write_text(text)
        lost = urls.write_list(tmp_path / "list", "url", "caption", delimiter, tmp_path)
        assert lost["skipped"] == {}
        with (tmp_path / "urls.csv").open(newline="") as file:
            assert list(csv.reader(file)) == [
                ["url", "caption"],
                ["http://a/1.jpg", "a cat"],
                ["http://a/2.jpg", 'a "dog'],
            ]


def test_a_missing_img2dataset_is_explained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nonexistent")
    (tmp_path / "list").write_text("http://a/1.jpg\ta cat\n")
    with pytest.raises(SystemExit):
        prepare.main(arguments(tmp_path / "list", tmp_path / "x"))
    assert "make img2dataset" in capsys.readouterr().err
