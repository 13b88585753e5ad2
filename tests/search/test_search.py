"""The index against all similarities, and the page as a browser and other programs ask it."""

import http.client
import io
import json
import re
import shutil
import subprocess
import threading
import warnings

import numpy as np
import pytest
from PIL import Image

from rankclip_jax.embedding.embedder import Embedded
from rankclip_jax.input_pipeline import prepare
from rankclip_jax.input_pipeline.scenes import Scenes
from rankclip_jax.search import command, index
from rankclip_jax.search.server import serve
from tests.commands import run
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


def test_an_index_is_made_again_where_it_is_of_other_weights_or_was_cut_off(tmp_path):
    made = []

    def embed():
        made.append(1)
        return embedded(9)

    for about in ({"of": 1}, {"of": 1}, {"of": 2}):
        index.open_index(tmp_path, about, embed)
    assert len(made) == 2
    (tmp_path / "about.json").write_text('{"of": 2')
    assert len(index.open_index(tmp_path, {"of": 2}, embed)) == 9
    assert len(made) == 3


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server on 24 prepared scenes, and the folder of all."""
    folder = tmp_path_factory.mktemp("search")
    make_run(folder / "run")
    drawn, rows = Scenes("validation", 24, 32), ["filepath,title"]
    for number in range(24):
        Image.fromarray(drawn[number]["image"]).save(folder / f"{number}.png")
        rows.append(f'{number}.png,"{drawn[number]["text"]} <b>{number}</b>"')
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
    server.server_close()


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
def test_what_is_not_there_is_said(served, tmp_path):
    _, folder = served
    assert "no dataset at" in run("explore", "--model", folder / "run", "--data", tmp_path, status=2).stderr
    assert "nothing there" in run("explore", "--model", tmp_path / "no", "--data", folder / "data", status=2).stderr
    assert "--model: not given" in run("explore", "--data", folder / "data", status=2).stderr
