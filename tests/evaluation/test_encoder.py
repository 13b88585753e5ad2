"""`rankclip_jax.load(path)`: any number of images and texts, in any form, to embeddings."""

import os

import jax
import numpy as np
import pytest
from PIL import Image

from rankclip_jax.evaluation.embedder import ROWS_PER_DEVICE
from rankclip_jax.evaluation.encoder import Encoder
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.models.clip import Clip, init_variables
from rankclip_jax.models.presets import PRESETS

MODEL = Clip(PRESETS["ViT-demo"])


@pytest.fixture(scope="module")
def encoder():
    return Encoder(MODEL, jax.jit(lambda key: init_variables(MODEL, key))(jax.random.key(0)))


def test_arrays_pictures_and_paths_give_the_same(encoder, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 3)).astype(np.uint8)
    picture = Image.fromarray(pixels)
    picture.save(tmp_path / "x.png")
    embeddings = encoder.encode_image([pixels, picture, tmp_path / "x.png", str(tmp_path / "x.png")])
    assert embeddings.shape == (4, 128)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(embeddings[1:], embeddings[:1].repeat(3, 0), atol=1e-6)


def test_the_number_of_rows_changes_no_row_and_few_programs_are_compiled(encoder):
    texts = [f"number {number}" for number in range(8 * ROWS_PER_DEVICE + 3)]
    together = encoder.encode_text(texts)
    for count in (1, 3, 8, 9, 15, 33, 63):
        np.testing.assert_allclose(encoder.encode_text(texts[:count]), together[:count], atol=1e-6)
    assert encoder._embedder._text._cache_size() <= 5  # 8, 16, 64 rows and the largest
    assert encoder.encode_text([]).shape == (0, 128)
    assert encoder.encode_image([]).shape == (0, 128)


def test_what_is_no_image_is_named(encoder, tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(UserError, match=r"x\.jpg: cannot be read: "):
        encoder.encode_image([tmp_path / "x.jpg"])
    with pytest.raises(TypeError, match=r"expected an image as uint8 \[H, W, 3\]; found float64 \[4, 4\]"):
        encoder.encode_image([np.zeros((4, 4))])
    with pytest.raises(TypeError, match="found bytes"):
        encoder.encode_image([b"x"])
    with pytest.raises(TypeError, match="list of strings"):
        encoder.encode_text("one")


def test_a_single_image_instead_of_a_list_is_refused(encoder, tmp_path):
    pixels = np.zeros((4, 4, 3), np.uint8)
    for single in ("one.png", tmp_path / "one.png", b"one", pixels, Image.fromarray(pixels)):
        with pytest.raises(TypeError, match=r"expected a list of images, such as \[image\]; found a single"):
            encoder.encode_image(single)
    assert encoder.encode_image(np.zeros((2, 4, 4, 3), np.uint8)).shape == (2, 128)


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (0, 0, 3)])
def test_an_image_without_pixels_is_refused(encoder, shape):
    with pytest.raises(TypeError, match=r"uint8 \[H, W, 3\]; found uint8 \[.*\], without pixels"):
        encoder.encode_image([np.zeros(shape, np.uint8)])
    with pytest.raises(UserError, match="an image without pixels"):
        encoder.encode_image([Image.new("RGB", shape[1::-1])])


GREY = np.random.default_rng(0).integers(0, 65536, (30, 40))
SAVED = {
    "16-bit PNG": (GREY.astype(np.uint16), "png", {}),
    "32-bit TIFF": (GREY.astype(np.int32), "tif", {}),
    "floating-point TIFF": (GREY.astype(np.float32), "tif", {}),
    "big-endian TIFF": (GREY.astype(">u2"), "tif", {}),
    "8-bit floats": ((GREY // 256).astype(np.float32), "tif", {}),
    "palette": (Image.fromarray((GREY // 256).astype(np.uint8)).convert("P"), "png", {"transparency": bytes(9)}),
    "turned JPEG": (np.stack([GREY // 256] * 3, -1).astype(np.uint8), "jpg", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\1"
                     b"\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", SAVED)
def test_a_path_and_the_opened_image_of_a_file_give_the_same(encoder, tmp_path, kind):
    image, suffix, options = SAVED[kind]
    path = tmp_path / f"x.{suffix}"
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path, **options)
    with Image.open(path) as opened:
        first, second = encoder.encode_image([path, opened])
        assert ("transparency" in opened.info) == ("transparency" in options), "the caller's image was changed"
    np.testing.assert_array_equal(first, second)


def test_what_is_no_regular_file_is_named_at_once(encoder, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", tmp_path, "/dev/zero"):
        with pytest.raises(UserError, match=f"{path}: cannot be read: "):
            encoder.encode_image([path])


def test_an_opened_image_that_cannot_be_decoded_is_named(encoder, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3)).astype(np.uint8)).save(tmp_path / "x.jpg")
    (tmp_path / "x.jpg").write_bytes((tmp_path / "x.jpg").read_bytes()[:2000])
    with (
        Image.open(tmp_path / "x.jpg") as opened,
        pytest.raises(UserError, match=r"x\.jpg: cannot be read: .*truncated"),
    ):
        encoder.encode_image([opened])
