"""`rankclip_jax.load(path)`: any number of images and texts, in any form, to embeddings."""

import jax
import numpy as np
import pytest
from PIL import Image

from rankclip_jax.embedding.embedder import ROWS_A_DEVICE
from rankclip_jax.embedding.encoder import Encoder
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.models.clip import Clip, draw_variables
from rankclip_jax.models.presets import PRESETS

MODEL = Clip(PRESETS["ViT-demo"])


@pytest.fixture(scope="module")
def encoder():
    return Encoder(MODEL, jax.jit(lambda key: draw_variables(MODEL, key))(jax.random.key(0)))


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
    texts = [f"number {number}" for number in range(8 * ROWS_A_DEVICE + 3)]
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
