"""Second views: altered, of the same kind, and reproducible."""

import numpy as np
import pytest
from PIL import Image

from input_pipeline import augmentation


def test_an_augmented_image_is_altered_and_reproducible():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    views = [augmentation.augment_image(image, 16, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert views[0].shape == (16, 16, 3)
    assert views[0].dtype == np.uint8
    np.testing.assert_array_equal(views[0], views[1])
    assert not np.array_equal(views[0], views[2])


@pytest.mark.parametrize("seed", range(12))
def test_an_augmented_text_keeps_its_words(seed):
    text = "a small dog runs over the green grass"
    edited = augmentation.augment_text(text, np.random.default_rng(seed)).split()
    assert set(edited) <= set(text.split())
    assert 7 <= len(edited) <= 9
    assert edited != text.split()


@pytest.mark.parametrize("text", ["", "dog", "two words"])
def test_short_texts_survive(text):
    for seed in range(6):
        assert set(augmentation.augment_text(text, np.random.default_rng(seed)).split()) == set(text.split())
