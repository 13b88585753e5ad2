"""Second views: altered, of the same kind, and reproducible."""

import numpy as np
import pytest

from rankclip_jax.input_pipeline import augmentation, images
from rankclip_jax.input_pipeline.augmentation import Augmentation

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
TEXT = "a small dog runs over the green grass"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"flip": 0.5},
        {"color_jitter": (0.4, 0.4, 0.4, 0.1)},
        {"auto_augment": "rand_augment"},
        {"auto_augment": "auto_augment"},
    ],
    ids=str,
)
def test_views_are_altered_and_reproducible(settings):
    augment = Augmentation((0.5, 1.0), **settings)
    views = [augment(images.in_memory(PIXELS), 16, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert views[0].shape == (16, 16, 3)
    assert views[0].dtype == np.uint8
    np.testing.assert_array_equal(views[0], views[1])
    assert not np.array_equal(views[0], views[2])


def test_a_flip_mirrors():
    whole = Augmentation(crop="center")
    picture = images.in_memory(PIXELS[:, :40])
    mirrored = Augmentation(crop="center", flip=1.0)
    first, second = (augment(picture, 40, np.random.default_rng(3)) for augment in (whole, mirrored))
    np.testing.assert_array_equal(second, first[:, ::-1])


def test_jitter_moves_colours_no_further_than_asked():
    grey = np.full((8, 8, 3), 100, np.uint8)
    brightness = Augmentation((1.0, 1.0), color_jitter=(0.2, 0, 0, 0))
    levels = {int(brightness(images.in_memory(grey), 8, np.random.default_rng(seed))[0, 0, 0]) for seed in range(200)}
    assert 78 <= min(levels) < 85
    assert 115 < max(levels) <= 121
    red = grey * [2, 0, 0]
    hue = Augmentation((1.0, 1.0), color_jitter=(0, 0, 0, 0.1))
    for seed in range(20):
        shifted = hue(images.in_memory(red.astype(np.uint8)), 8, np.random.default_rng(seed))[0, 0]
        assert shifted[0] == 200
        assert max(shifted[1:]) <= 200 * 0.62


@pytest.mark.parametrize("seed", range(20))
def test_an_augmented_text_keeps_its_words_or_their_synonyms(seed):
    edited = augmentation.augment_text(TEXT, np.random.default_rng(seed)).split()
    known = set(TEXT.split()) | {other for word in TEXT.split() for other in augmentation._synonyms().get(word, [])}
    assert set(edited) <= known
    assert 7 <= len(edited) <= 9


def test_every_kind_of_edit_happens_and_is_reproducible():
    texts = [augmentation.augment_text(TEXT, np.random.default_rng(seed)) for seed in range(40)]
    assert texts == [augmentation.augment_text(TEXT, np.random.default_rng(seed)) for seed in range(40)]
    words = [text.split() for text in texts]
    assert {len(text) for text in words} == {7, 8, 9}
    assert any(sorted(text) == sorted(TEXT.split()) and text != TEXT.split() for text in words)  # swapped
    assert any(len(text) == 8 and set(text) - set(TEXT.split()) for text in words)  # replaced


def test_synonyms_keep_punctuation_and_capitals():
    edited = {augmentation._synonym("Small,", np.random.default_rng(seed)) for seed in range(10)}
    assert edited
    assert all(word.endswith(",") and word[0].isupper() and word != "Small," for word in edited)
    assert augmentation._synonym("zebra", np.random.default_rng(0)) == "zebra"


@pytest.mark.parametrize("text", ["", "dog"])
def test_short_texts_stay(text):
    assert augmentation.augment_text(text, np.random.default_rng(0)) == text
