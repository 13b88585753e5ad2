"""The page about runs: what it says, and that it needs nothing but itself."""

import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from rankclip_jax.evaluation.embedder import Embedded
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.monitoring import charts, heat_maps, html_report, model_section, page
from tests.commands import run
from tests.evaluation.test_metrics import unit
from tests.interop.conftest import make_run
from tests.monitoring.test_goodput import attempt
from tests.monitoring.test_goodput import write as write_goodput

VOID = {"meta", "img", "line", "circle", "polyline", "wbr"}


class Reader(html.parser.HTMLParser):
    """Every element is closed, in order; what each refers to, and all text."""

    def __init__(self, content):
        super().__init__()
        self.open, self.references, self.images, self.text = [], [], [], ""
        self.feed(content)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.references += [value for name, value in attributes if name in ("src", "href")]
        if tag == "img":
            self.images.append(dict(attributes))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def results(folder, step, **values):
    (folder / "evaluation").mkdir(exist_ok=True)
    (folder / "evaluation" / f"{step}.json").write_text(json.dumps(values))


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    for name, loss, top_1 in (("one", 2.0, 0.5), ("other", 1.5, 0.25)):
        make_run(folder / name)
        lines = [{"step": step, "loss": loss / step, "finite": 1.0} for step in (1, 2, 3)]
        (folder / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        results(folder / name, 3, **{"validation/loss": loss, "zero_shot/top_1": top_1, "validation/in_modal": loss})
        directions = {"validation/loss": False, "zero_shot/top_1": True, "validation/in_modal": None}
        (folder / name / "evaluation" / "higher_is_better.json").write_text(json.dumps(directions))
    config = json.loads((folder / "other" / "config.json").read_text())
    config["logging"]["every_steps"] = 7  # free to change
    (folder / "other" / "config.json").write_text(json.dumps(config))
    write_goodput(folder / "one", attempt(0.0, 100.0, 0, 30, step=75.0, compile=25.0))
    return folder


@pytest.fixture(scope="module")
def written(two_runs):
    path = two_runs / "report.html"
    said = run("report", "--workdir", two_runs / "one", two_runs / "other", "--output", path).stdout
    assert said == f"Report: {path}\n"
    return path.read_text()


@pytest.mark.slow
def test_the_page_is_whole_and_refers_to_nothing_outside(written):
    read = Reader(written)
    assert all(reference.startswith(("#", "data:image/png;base64,")) for reference in read.references)
    anchors = {reference[1:] for reference in read.references if reference.startswith("#")}
    assert anchors <= set(re.findall(r'id="([^"]+)"', written))
    assert "<script" not in written
    assert all(image["alt"] for image in read.images)
    for words in ("prefers-color-scheme: dark", 'name="viewport"', ":focus-visible", 'lang="en"'):
        assert words in written


@pytest.mark.slow
def test_runs_stand_side_by_side_with_their_differences(written):
    rows = re.findall(r"<tr>(.*?)</tr>", written)
    row = {re.sub("<.*?>", "", row.split("</th>")[0]): row for row in rows}
    assert '<td>0.2500 <span class="worse">-0.2500</span></td>' in row["zero_shot/top_1"]
    assert '<td>1.5000 <span class="better">-0.5000</span></td>' in row["validation/loss"]
    assert 'class="plain"' in row["validation/in_modal"]
    assert "<td>25</td><td>7</td>" in row["config.logging.every_steps"]
    for name in ("one", "other"):
        assert '<span class="unfinished">unfinished, step 0 of 240 is saved</span>' in row[name]
    assert ">other, step 3 (unfinished)</th>" in row["metric"]
    assert "<td>75.0%</td><td>-</td>" in row["goodput"]
    assert "What one has learned" in written
    assert "What other has learned" in written
    assert written.count("<figcaption>loss</figcaption>") == 1
    assert "<figcaption>finite</figcaption>" not in written


class Quadrants:
    """Sees how bright the quarters of an image are, and reads their numbers."""

    logit_scale = 10.0

    def encode_image(self, images):
        return np.array([[np.mean(quarter) for half in np.split(image, 2) for quarter in np.split(half, 2, axis=1)]
                         for image in images]) / 255  # fmt: skip

    def encode_text(self, texts):
        return np.array([[text.split().count(str(number)) for number in range(4)] for text in texts], float)


def test_a_word_is_seen_where_it_matters_and_covering_takes_it_away():
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8, 8:] = 240  # quarter 1; covering a square of it by the mean, 60, takes 180 of 255 from a sixteenth of it
    heat = heat_maps.heat_of_words(Quadrants(), pixels, "1 and 3")
    np.testing.assert_allclose(heat[0, :4, 4:], 180 / 255 / 16)
    assert not heat[0, 4:].any()
    assert not heat[0, :, :4].any()
    assert not heat[1].any()
    np.testing.assert_allclose(heat[2, 4:, 4:], -60 / 255 / 16)
    assert heat_maps.draw(Quadrants(), [(pixels, "1 <b> 3")]).count("&lt;b&gt;</figcaption>") == 1
    assert "<figcaption>" not in heat_maps.draw(Quadrants(), [(pixels, " ")])


def test_what_is_right_is_marked_and_words_of_data_stay_words(monkeypatch):
    texts = ["<script>alert(1)</script>", "a dog", "a dog", "a cow"]
    source = [{"image": np.full((8, 8, 3), index, np.uint8), "text": text} for index, text in enumerate(texts)]
    rows = unit(0, 4, 8)
    embedded = Embedded(rows, rows, np.arange(4), np.arange(4), np.arange(4))
    told = model_section.render(source, embedded, Quadrants())
    read = Reader(told)
    assert "<script>" in read.text
    assert "<script>" not in told
    cards = re.findall(r'<div class="card">.*?</ol></div>', told)
    assert len(cards) == 8  # and three of words
    for card, text in zip(cards[:4], texts, strict=True):  # each is nearest to its own
        first = re.search(r'<li class="(\w+)">(.*?)</li>', card)
        assert (first[1], html.unescape(first[2])) == ("right", text)
    assert cards[1].count("a dog</li>") == 1
    assert cards[5].count('class="right"') == 2  # two images have this caption


def test_several_captions_are_shown_and_each_counts_as_right():
    """Each image's second caption is the first of the next."""
    texts = [["one", "two", "three", "four", "five"], ["two", "three"], ["three", "one"]]
    source = [{"image": np.full((8, 8, 3), index, np.uint8), "text": text} for index, text in enumerate(texts)]
    rows = unit(0, 3, 8)
    told = model_section.render(source, Embedded(rows, rows, np.arange(3), np.arange(3), np.arange(3)), Quadrants())
    cards = re.findall(r'<div class="card">.*?</ol></div>', told)
    assert re.findall("<p>(.*?)</p>", cards[0]) == ["one", "two", "three", "and 2 more"]
    assert re.findall("<p>(.*?)</p>", cards[1]) == ["two", "three"]
    assert {text: mark for mark, text in re.findall(r'<li class="(\w+)">(.*?)</li>', cards[1])} == {
        "one": "wrong", "two": "right", "three": "right"}  # fmt: skip
    assert cards[4].count('<figure class="right">') == 2  # "two" is said of the first two


def test_lines_go_through_their_points():
    drawn = charts.lines("t", {"a": [(0, 0), (10, 5)], "<b>": [(5, 10)], "none": []}, "step")
    (points,) = (re.findall(r"[\d.]+,[\d.]+", found) for found in re.findall(r's0" points="(.*?)"', drawn))
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in points)
    labels = {text: float(x) for x, text in re.findall(r'<text x="([\d.]+)" y="222" [^>]*>([\d.]+)</text>', drawn)}
    assert (x0, x1) == (labels["0"], labels["10"])
    assert y0 - y1 == pytest.approx((230 - 16 - 26) / 2, abs=0.2)  # half of the height
    assert "&lt;b&gt;" in drawn
    assert "none" not in drawn
    assert charts.lines("t", {"a": []}, "step") == ""
    Reader(charts.lines("t", {"a": [(1, 3.0)]}, "step"))  # one point has no width


@pytest.mark.slow
def test_what_is_no_run_is_said(two_runs, tmp_path):
    with pytest.raises(UserError, match="no run at"):
        html_report.write([tmp_path], tmp_path / "x.html")
    assert "no run at" in run("report", "--workdir", tmp_path, "--output", tmp_path / "x.html", status=2).stderr
    named = run("report", "--workdir", "a", "a", "--output", tmp_path / "x.html", status=2).stderr
    assert "--workdir: a is given twice" in named
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_browser_shows_it_and_a_phone_reaches_every_column_with_whole_words(written, tmp_path):
    """At 360 pixels, as a frame has them: headless windows are wider."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or pytest.skip("no Chromium here")
    probe, outer = tmp_path / "probe.html", tmp_path / "outer.html"
    # Where a line breaks inside a word: the boxes of two letters that follow each other are not side by side.
    script = """<script>
      const broken = new Set(), hidden = [], range = document.createRange();
      const tables = document.querySelectorAll("table, .card");
      for (const table of tables) {
        const walk = document.createTreeWalker(table, NodeFilter.SHOW_TEXT);
        while (walk.nextNode()) {
          const text = walk.currentNode.data;
          for (const match of text.matchAll(/[A-Za-z]{2,}/g)) {
            range.setStart(walk.currentNode, match.index);
            range.setEnd(walk.currentNode, match.index + match[0].length);
            if (range.getClientRects().length > 1) broken.add(match[0]);
          }
        }
      }
      for (const box of document.querySelectorAll(".scroll")) {
        box.scrollLeft = 1e6;
        const last = box.querySelector("tr").lastElementChild.getBoundingClientRect();
        const first = box.querySelector("tr").firstElementChild.getBoundingClientRect();
        const scrolls = box.scrollWidth <= box.clientWidth || getComputedStyle(box).overflowX == "auto";
        if (!scrolls || last.right > innerWidth + 1 || last.left < first.right - 1)
          hidden.push(box.getAttribute("aria-label"));
      }
      const fits = document.documentElement.scrollWidth <= innerWidth;
      parent.postMessage(`${innerWidth} ${fits} broken:${[...broken]} hidden:${hidden}`, "*");
    </script>"""
    probe.write_text(written.replace("</body>", f"{script}</body>"))
    outer.write_text(
        "<script>onmessage = event => { document.title = event.data }</script>"
        '<iframe src="probe.html" width="360" height="800" style="border: 0"></iframe>'
    )
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom",
         f"file://{outer}"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert re.search(r"<title>(.*?)</title>", done.stdout)[1] == "360 true broken: hidden:"


def test_names_break_between_their_words():
    assert page.name("retrieval/image_to_text/recall_1") == ("retrieval/<wbr>image_<wbr>to_<wbr>text/<wbr>recall_1")
    assert page.name("config.model.<b>") == "config.<wbr>model.<wbr>&lt;b&gt;"


def test_a_section_without_content_is_left_out():
    written = page.document("t", {"One": "<p>1</p>", "None": ""})
    assert "One" in written
    assert "None" not in written
