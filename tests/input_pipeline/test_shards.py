"""Whatever is wrong with one image of a preparation is counted under its name, and ends nothing."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from rankclip_jax.input_pipeline import images
from rankclip_jax.input_pipeline.preparation import shards
from rankclip_jax.input_pipeline.preparation.pairs import Pair, Skip
from tests.fuzz.images import oversized
from tests.input_pipeline.test_orientation import ODD, RIGHT, encoded, exif
from tests.input_pipeline.test_prepare import captions, run, skipped


def png(image, **options):
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TensorFlow Datasets' own
def test_images_that_are_odd_are_written_or_counted(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    turned = encoded("JPEG", exif=b"Exif\0\0" + exif(*ODD.values(), RIGHT))
    good = {
        "long.png": png(Image.new("1", (300, 80_000))),
        "odd.jpg": turned,
        "small.png": png(Image.new("I;16", (9, 9))),
    }
    screen = next(oversized()).content
    bad = {
        "postscript.jpg": encoded("EPS"),
        "bomb.png": screen,
        "large.png": png(Image.new("1", (6000, 5000))),
        "lab.tif": encoded_lab(),
    }
    for name, content in (good | bad).items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "folder.jpg").mkdir()
    names = [*good, *bad, "pipe.jpg", "folder.jpg", "gone.jpg"]
    (folder / "list.csv").write_text("\n".join(["filepath,title", *(f"{name},{name}" for name in names)]))
    found = run("csv", folder / "list.csv", tmp_path / "x", "--shrink", "32", "--max_pixels", 25_000_000)
    assert captions(found) == list(good)
    assert skipped(tmp_path / "x") == {"unreadable image": 4, "unreadable file": 2, "no such file": 1}
    sizes = [images.decode(record["image"]).size for record in found]
    assert sizes == [(32, 8533), (32, 51), (9, 9)]


def encoded_lab():
    file = io.BytesIO()
    Image.new("LAB", (9, 9)).save(file, "TIFF")
    return file.getvalue()


def test_an_image_that_cannot_be_written_is_counted_under_its_name(monkeypatch):
    pair = Pair("some/key", png(Image.fromarray(np.zeros((90, 70, 3), np.uint8))), ("a caption",))
    assert isinstance(shards._filtered(pair, shards.Options(shrink=32)), Pair)
    for error in (OSError("broken data stream"), ValueError("no room"), MemoryError("of memory")):

        def refuse(*_, error=error, **__):
            raise error

        monkeypatch.setattr(Image.Image, "save", refuse)
        expected = f"some/key: cannot be written with 32 x 41 pixels: {error}"
        assert shards._filtered(pair, shards.Options(shrink=32)) == Skip("unreadable image", expected)
