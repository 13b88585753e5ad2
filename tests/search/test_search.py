"""The index against all similarities, and the page as a browser and other programs ask it."""

import concurrent.futures
import contextlib
import http.client
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from PIL import Image

from rankclip_jax.evaluation.embedder import Embedded
from rankclip_jax.input_pipeline import prepare
from rankclip_jax.input_pipeline.scenes import Scenes
from rankclip_jax.search import command, index
from rankclip_jax.search.server import serve
from tests.commands import ROOT, environment, run
from tests.interop.conftest import make_run

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow Datasets warns of much


def spread(seed, count, width=64):
    """Unit rows that lie mostly in a few directions, as embeddings do."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, width)) * np.exp(-np.arange(width) / 10)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def embedded(count):
    """Two captions for every other image."""
    owners = np.repeat(np.arange(count), 1 + np.arange(count) % 2)
    return Embedded(spread(0, count), spread(1, len(owners)), owners, 10 * np.arange(count), np.arange(len(owners)))


@pytest.mark.parametrize("few", [10**6, 500], ids=["as they are", "by components"])
def test_the_nearest_are_those_of_all_similarities(few, tmp_path, monkeypatch):
    for name, value in (("_FEW", few), ("_COARSE", 32), ("_CANDIDATES", 200)):
        monkeypatch.setattr(index, name, value)
    known = embedded(2001)
    found = index.open_index(tmp_path, {"of": 1}, lambda: known)
    for query in spread(2, 20):
        for kind, rows in (("image", known.image), ("text", known.text)):
            scores = rows @ query
            best = np.argsort(-scores)[:7]
            nearest = found.nearest(query, kind, 7)
            assert [number for number, _, _ in nearest] == best.tolist()
            np.testing.assert_allclose([score for _, _, score in nearest], scores[best], rtol=1e-5)
            owners = best if kind == "image" else known.image_of_text[best]
            assert [record for _, record, _ in nearest] == (10 * owners).tolist()
    assert [found.place_of_text(number) for number in range(6)] == [0, 0, 1, 0, 0, 1]
    assert len(found.nearest(query, "image", 5000)) == (2001 if few == 10**6 else 200)


def test_an_index_is_made_once_for_each_weights_and_data_and_those_before_are_removed(tmp_path):
    made = []

    def embed():
        made.append(1)
        return embedded(9)

    (tmp_path / "mine").mkdir()  # which is nobody else's
    for about in ({"of": 1}, {"of": 1}, {"of": 2}):
        index.open_index(tmp_path, about, embed)
    assert len(made) == 2
    assert {path.name for path in tmp_path.iterdir()} == {index.local_path(tmp_path, {"of": 2}).name, "mine"}


def damage(how, folder):
    file = folder / "text.npy"
    match how:
        case "truncated":
            file.write_bytes(file.read_bytes()[:-7])
        case "empty":
            file.write_bytes(b"")
        case "missing":
            file.unlink()
        case "a folder":
            file.unlink()
            file.mkdir()
        case "a pipe":
            file.unlink()
            os.mkfifo(file)
        case "altered":
            content = bytearray(file.read_bytes())
            content[-3] ^= 1
            file.write_bytes(content)
        case "another's":
            shutil.copy(folder / "image.npy", file)
        case "no about":
            (folder / "about.json").unlink()
        case about:
            (folder / "about.json").write_text(about)


@pytest.mark.parametrize(
    "how",
    ["truncated", "empty", "missing", "a folder", "a pipe", "altered", "another's", "no about", "{", "[]", "[" * 10**5,
     "9" * 5000, '{"of": {"of": 1}}', '{"of": {"of": 1}, "files": [1]}', '{"of": {"of": 1}, "files": {"text.npy": 1}}'],
    ids=lambda how: how[:12],
)  # fmt: skip
def test_a_damaged_index_is_named_and_made_again(how, tmp_path, capsys):
    known, here = embedded(9), index.local_path(tmp_path, {"of": 1})
    index.open_index(tmp_path, {"of": 1}, lambda: known)
    damage(how, here)
    found = index.open_index(tmp_path, {"of": 1}, lambda: known)
    assert [number for number, _, _ in found.nearest(known.text[5], "text", 1)] == [5]
    assert f"{here.name} is damaged" in capsys.readouterr().out
    index.open_index(tmp_path, {"of": 1}, lambda: pytest.fail("made again though nothing is wrong any more"))
    assert [path.name for path in tmp_path.iterdir()] == [here.name]


_READER = """
import sys, numpy as np
from pathlib import Path
from rankclip_jax.search import index
from tests.search.test_search import embedded, spread
index._FEW, index._COARSE, index._CANDIDATES = 100, 32, 200  # the rows stay on the disk
def embed():
    raise SystemExit("made again")
found = index.open_index(Path(sys.argv[1]), {"of": 1}, embed)
print("open", flush=True)
for line in sys.stdin:
    best = found.nearest(spread(1, 3000)[7], "text", 1)[0][0]
    print(best, flush=True)
"""


def test_whoever_searches_an_index_keeps_it_while_others_are_made(tmp_path):
    index.open_index(tmp_path, {"of": 1}, lambda: embedded(2000))
    reader = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _READER, tmp_path], cwd=ROOT, env=environment(),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert reader.stdout.readline() == "open\n"
    for what in range(2, 5):
        index.open_index(tmp_path, {"of": what}, lambda: embedded(10))
        reader.stdin.write("\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == "7\n"
    assert reader.communicate()[0] == ""
    assert reader.returncode == 0


def test_processes_that_make_an_index_at_once_all_have_it(tmp_path):
    known, start = embedded(500), threading.Barrier(6)

    def make(about):
        def embed():
            start.wait(30)
            return known

        found = index.open_index(tmp_path, {"of": about}, embed)
        return found.nearest(known.image[3], "image", 1)[0][0]

    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        assert list(threads.map(make, [1, 1, 1, 1, 2, 2])) == [3] * 6
    assert all(re.fullmatch("[0-9a-f]{16}", path.name) for path in tmp_path.iterdir())
    index.open_index(tmp_path, {"of": 1}, lambda: known)


def test_captions_that_read_the_same_are_one_row_with_their_number(tmp_path):
    rows = spread(3, 4)
    same = Embedded(rows, rows[[0, 0, 1, 0, 2, 3]], np.array([0, 1, 1, 2, 2, 3]), 10 * np.arange(4),
                    np.array([7, 7, 5, 7, 6, 4]))  # fmt: skip
    found = index.open_index(tmp_path, {}, lambda: same)
    nearest = found.nearest(rows[0], "text", 10)
    assert len(nearest) == 4
    assert nearest[0][1] == 0
    assert [found.count_of_text(number) for number, _, _ in nearest] == [3] + [1] * 3
    assert sorted(record for _, record, _ in nearest) == [0, 10, 20, 30]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server on 24 prepared scenes, and the folder of all."""
    folder = tmp_path_factory.mktemp("search")
    make_run(folder / "run")
    drawn, rows = Scenes("validation", 24, 32), ["filepath,title"]
    for number in range(24):
        Image.fromarray(drawn[number]["image"]).save(folder / f"{number}.png")
        rows.append(f'{number}.png,"{drawn[number]["text"]} <b>{number}</b>"')
    rows += [f'{number}.png,"a caption that five have"' for number in range(5)]
    (folder / "list.csv").write_text("\n".join(rows))
    run(prepare.__name__, "--source", "csv", "--input", folder / "list.csv", "--split", "train", "--output",
        folder / "data", "--image_key", "filepath", "--caption_key", "title", "--delimiter", ",")  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        server = serve(command.prepare(folder / "run", folder / "data", "train", folder / "index"), "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server, folder
    server.shutdown()
    thread.join(30)
    assert not thread.is_alive()


def ask(server, method, path, body=None, **headers):
    connection = http.client.HTTPConnection(*server.server_address, timeout=30)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read()


@pytest.mark.slow
def test_words_and_images_find_what_is_nearest(served):
    server, folder = served
    status, content = ask(server, "POST", "/image", (folder / "7.png").read_bytes())
    found = json.loads(content)
    assert status == 200
    assert "<b>7</b>" in found["images"][0]["caption"]
    assert found["images"][0]["score"] == pytest.approx(1, abs=1e-3)
    assert len(found["images"]) == len(found["texts"]) == 24
    scores = [one["score"] for one in found["texts"]]
    assert scores == sorted(scores, reverse=True)
    assert [one["count"] for one in found["texts"] if one["caption"] == "a caption that five have"] in ([], [5])
    assert len({one["caption"] for one in found["texts"]}) == 24
    words = found["texts"][3]["caption"]
    found = json.loads(ask(server, "POST", "/text", json.dumps({"text": words}))[1])
    assert found["texts"][0]["caption"] == words
    picture = Image.open(io.BytesIO(ask(server, "GET", f"/image/{found['images'][0]['record']}")[1]))
    assert picture.format == "JPEG"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/text", b"{", 400),
        ("POST", "/text", b'{"text": 3}', 400),
        ("POST", "/text", b'{"text": " "}', 400),
        ("POST", "/image", b"no image", 400),
        ("POST", "/text", b"", 413),
        ("POST", "/other", b"x", 404),
        ("GET", "/image/99999", None, 400),
        ("GET", "/image/../index", None, 404),
        ("GET", "/secret", None, 404),
    ],
)
def test_other_questions_are_refused_and_the_server_goes_on(method, path, body, status, served):
    server, _ = served
    assert ask(server, method, path, body)[0] == status
    assert ask(server, "GET", "/")[0] == 200


@pytest.mark.slow
def test_a_page_elsewhere_whose_name_leads_here_gets_nothing(served):
    server, _ = served
    assert ask(server, "GET", "/", Host="evil.example")[0] == 403
    assert ask(server, "POST", "/text", b'{"text": "a"}', Host="evil.example")[0] == 403
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.slow
def test_a_browser_searches(served):
    server, _ = served
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or pytest.skip("no Chromium here")
    address = f"http://127.0.0.1:{server.server_address[1]}/?q=a+red+circle"
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000", "--dump-dom", address],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert re.search(r"found in \d+ ms", done.stdout)
    assert done.stdout.count('src="/image/') == 24
    assert "&lt;b&gt;" in done.stdout  # captions stay words


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_ends_the_command_cleanly(number, status, served):
    _, folder = served
    words = ["--model", folder / "run", "--data", folder / "data", "--index", folder / "index", "--port", "0"]
    running = subprocess.Popen(
        [sys.executable, "-m", "rankclip_jax.explore", *words], cwd=ROOT, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    line = running.stdout.readline()
    while line and "Search at" not in line:
        line = running.stdout.readline()
    address = re.search(r"http://([0-9.]+):(\d+)/", line)
    connection = http.client.HTTPConnection(address[1], int(address[2]), timeout=30)  # stays open
    with contextlib.closing(connection):
        connection.request("POST", "/text", b'{"text": "a"}')
        assert connection.getresponse().status == 200
        running.send_signal(number)
        out, err = running.communicate(timeout=60)
    assert running.returncode == status
    assert "Traceback" not in err
    assert ("stopped" in out) == (number == signal.SIGINT)


@pytest.mark.slow
def test_what_is_not_there_is_said(served, tmp_path):
    _, folder = served
    assert "no dataset at" in run("explore", "--model", folder / "run", "--data", tmp_path, status=2).stderr
    assert (
        "no: not found. Use the path of"
        in run("explore", "--model", tmp_path / "no", "--data", folder / "data", status=2).stderr
    )
    assert "--model: not given" in run("explore", "--data", folder / "data", status=2).stderr
