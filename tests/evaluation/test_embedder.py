"""Datasets to embeddings: each row its own, over any devices and processes."""

import dataclasses
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from rankclip_jax.distributed.sharding import Layout
from rankclip_jax.evaluation.embedder import Embedder
from rankclip_jax.input_pipeline.errors import UnreadableError, UserError
from rankclip_jax.input_pipeline.scenes import Scenes
from tests.commands import ROOT, environment
from tests.evaluation.two_processes import MODEL, SOURCE, TEXTS, variables


@pytest.fixture(scope="module")
def weights():
    return variables()


@dataclasses.dataclass(frozen=True)
class Captioned:
    """Scenes with several captions each, one of them unreadable."""

    scenes: Scenes

    def __len__(self):
        return len(self.scenes)

    def __getitem__(self, index):
        if index == 4:
            raise UnreadableError("damaged")
        record = self.scenes[index]
        return record | {"text": [f"{index}: {record['text']}"] + [f"{index} and {n}" for n in range(index % 3)]}


def test_all_captions_of_readable_records_come_with_the_row_of_their_image(weights, mesh_of, caplog):
    source = Captioned(SOURCE)
    embedder = Embedder(MODEL, Layout(mesh_of(8)))
    embedded = embedder.dataset(weights, source, 23, batch_size=8, workers=1)
    there = [number for number in range(23) if number != 4]
    assert embedded.index.tolist() == there
    assert embedded.unreadable.tolist() == [4]
    assert embedded.records == [*there, 4]
    assert embedded.image_of_text.tolist() == [row for row, number in enumerate(there) for _ in range(1 + number % 3)]
    captions = [text for number in there for text in source[number]["text"]]
    one = Embedder(MODEL, Layout(mesh_of(1)))
    np.testing.assert_allclose(embedded.text, one.texts(weights, captions), atol=1e-6)
    alike = np.array(captions)[:, None] == np.array(captions)
    np.testing.assert_array_equal(embedded.sentence[:, None] == embedded.sentence, alike)
    assert not alike.all()
    pixels = np.stack([source[number]["image"] for number in there])
    images = one.images(weights, len(there), lambda rows: pixels[rows.start : rows.stop])
    np.testing.assert_allclose(embedded.image, images, atol=1e-6)
    firsts = one.texts(weights, [source[number]["text"][0] for number in there])
    np.testing.assert_allclose(embedded.first_text, firsts, atol=1e-6)
    assert "unreadable: record 4: damaged" in caplog.text
    assert "1 of 23 images cannot be read" in caplog.text


def test_weights_that_are_not_finite_measure_nothing(weights, mesh_of):
    broken = jax.tree.map(np.copy, weights)
    broken["params"]["text"]["projection"]["kernel"][:] = np.nan
    with pytest.raises(UserError, match=r"23 of 23 text embeddings are not finite.*--step=N"):
        Embedder(MODEL, Layout(mesh_of(1))).dataset(broken, SOURCE, 23, batch_size=8)


def test_two_processes_whose_devices_take_turns_get_each_row_its_own_embedding(weights, mesh_of, tmp_path):
    """As `create_device_mesh` orders the devices of larger TPU slices; and both write one config.json."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tests.evaluation.two_processes", str(port)]
    processes = [
        subprocess.Popen(
            [*command, str(index), tmp_path / "found.npz", tmp_path / "run"],
            cwd=ROOT,
            env=environment(devices=4),
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    with np.load(tmp_path / "found.npz", allow_pickle=False) as file:
        found = dict(file)
    one = Embedder(MODEL, Layout(mesh_of(1)))
    expected = one.dataset(weights, SOURCE, 23, batch_size=8)
    assert found["index"].tolist() == list(range(23))
    np.testing.assert_allclose(found["image"], expected.image, atol=1e-6)
    np.testing.assert_allclose(found["text"], expected.text, atol=1e-6)
    np.testing.assert_allclose(found["texts"], one.texts(weights, TEXTS), atol=1e-6)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]
