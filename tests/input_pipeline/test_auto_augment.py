"""Learned and random image operations: each does what its name says, and the same generator gives the same pixels."""

import collections

import numpy as np
import pytest
from PIL import Image

from rankclip_jax.input_pipeline import auto_augment
from rankclip_jax.input_pipeline.auto_augment import OPERATIONS

FILL = [128, 128, 128]
AUGMENTATIONS = [auto_augment.rand_augment, auto_augment.auto_augment]


def _textured(width: int = 60, height: int = 40) -> Image.Image:
    """Smooth waves and noise between 40 and 200, so that every operation has something to change."""
    across, down, channel = np.ogrid[:height, :width, :3]
    waves = 120 + 60 * np.sin(across / 5 + channel) * np.cos(down / 7)
    noise = np.random.default_rng(0).uniform(-20, 20, (height, width, 3))
    return Image.fromarray((waves + noise).astype(np.uint8))


def _after(name: str, image: Image.Image, level: float) -> np.ndarray:
    return np.asarray(OPERATIONS[name](image, level)).astype(int)


def _grey(*values: int) -> Image.Image:
    return Image.fromarray(np.repeat(np.array(values, np.uint8)[None, :, None], 3, axis=2))


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_size_and_mode_are_kept_and_the_same_generator_gives_the_same_pixels(augment):
    image = _textured()
    before = image.tobytes()
    seen = set()
    for seed in range(40):
        first, second = (augment(image, np.random.default_rng(seed)) for _ in range(2))
        assert (first.size, first.mode) == (image.size, "RGB")
        assert first.tobytes() == second.tobytes()
        seen.add(first.tobytes())
    assert len(seen) > 20
    assert image.tobytes() == before


@pytest.mark.parametrize("augment", AUGMENTATIONS)
@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1)])
def test_the_smallest_images_survive(augment, size):
    for seed in range(40):
        assert augment(Image.new("RGB", size, (9, 99, 199)), np.random.default_rng(seed)).size == size


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_each_operation_changes_a_textured_picture_but_for_the_identity(name):
    changed = not np.array_equal(_after(name, _textured(), 0.9), np.asarray(_textured()))
    assert changed == (name != "identity")


@pytest.mark.parametrize("name", [*sorted(auto_augment.SIGNED), "solarize", "posterize"])
def test_magnitude_0_changes_nothing(name):
    np.testing.assert_array_equal(_after(name, _textured(), 0), np.asarray(_textured()))


@pytest.mark.parametrize("name", ["contrast", "colour", "brightness", "sharpness"])
def test_an_enhancement_of_the_middle_magnitude_changes_nothing(name):
    np.testing.assert_array_equal(_after(name, _textured(), 0.5), np.asarray(_textured()))


@pytest.mark.parametrize(
    ("name", "level", "before", "after"),
    [
        ("invert", 0.3, (0, 10, 255), (255, 245, 0)),
        ("solarize", 0.0, (0, 255), (0, 255)),
        ("solarize", 0.5, (0, 127, 128, 255), (0, 127, 127, 0)),
        ("solarize", 1.0, (0, 100, 255), (255, 155, 0)),
        ("posterize", 1.0, (15, 16, 31, 255), (0, 16, 16, 240)),
        ("posterize", 0.5, (3, 4, 7, 255), (0, 4, 4, 252)),
        ("auto_contrast", 0.3, (50, 100, 150), (0, 127, 255)),
        ("brightness", 0.0, (0, 100, 250), (0, 10, 25)),
        ("brightness", 1.0, (0, 100, 250), (0, 190, 255)),
        ("contrast", 0.0, (0, 200), (90, 110)),
        ("contrast", 1.0, (80, 120), (62, 138)),
    ],
)
def test_values_change_as_worked_out_by_hand(name, level, before, after):
    np.testing.assert_array_equal(_after(name, _grey(*before), level)[0, :, 0], after)


def test_equalize_spreads_the_values_over_the_whole_range():
    values = _after("equalize", Image.fromarray(np.asarray(_textured()) // 4 + 90), 0.3)
    assert values.min() == 0
    assert values.max() > 240


def test_the_lowest_colour_is_nearly_grey_and_the_highest_more_vivid():
    spread = [np.ptp(_after("colour", Image.new("RGB", (1, 1), (100, 120, 140)), level)) for level in (0, 0.5, 1)]
    assert spread == [4, 40, 76]


def test_sharpness_blurs_when_low_and_sharpens_when_high():
    roughness = [np.abs(np.diff(_after("sharpness", _textured(), level), axis=1)).mean() for level in (0, 0.5, 1)]
    assert roughness == sorted(roughness)
    assert roughness[0] < 0.8 * roughness[1]


def test_translation_moves_right_or_down_by_its_share_of_the_side_and_fills_with_grey():
    image = _textured(331, 20)
    pixels = np.asarray(image)
    right, left = _after("translate_x", image, 1), _after("translate_x", image, -0.1)
    np.testing.assert_array_equal(right[:, 150:], pixels[:, :-150])
    assert (right[:, :150] == FILL).all()
    np.testing.assert_array_equal(left[:, :-15], pixels[:, 15:])
    assert (left[:, -15:] == FILL).all()
    down = _after("translate_y", image, 1)
    np.testing.assert_array_equal(down[9:], pixels[:-9])
    assert (down[:9] == FILL).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_shear_moves_each_row_or_column_by_its_distance_from_the_corner(sign):
    line = np.full((41, 41, 3), 255, np.uint8)
    line[:, 20] = 0
    sheared = _after("shear_x", Image.fromarray(line), sign)[..., 0]
    assert [int(sheared[row].argmin()) for row in (0, 10, 20, 40)] == [20, 20 + 3 * sign, 20 + 6 * sign, 20 + 12 * sign]
    transposed = _after("shear_y", Image.fromarray(line.swapaxes(0, 1).copy()), sign)[..., 0]
    np.testing.assert_array_equal(transposed, sheared.T)


@pytest.mark.parametrize("sign", [1, -1])
def test_rotation_is_anticlockwise_where_positive_and_of_30_degrees_at_most(sign):
    dot = np.zeros((101, 101, 3), np.uint8)
    dot[48:53, 88:93] = 255  # 40 pixels to the right of the centre
    rows, columns = np.nonzero(_after("rotate", Image.fromarray(dot), sign)[..., 0] == 255)
    assert columns.mean() == pytest.approx(50 + 40 * np.cos(np.pi / 6), abs=0.6)
    assert rows.mean() == pytest.approx(50 - sign * 40 * np.sin(np.pi / 6), abs=0.6)


def test_rand_augment_draws_both_signs_and_all_14_operations_of_its_paper_evenly(monkeypatch):
    calls = collections.defaultdict(list)
    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, lambda image, level, name=name: calls[name].append(level) or image)
    auto_augment.rand_augment(_grey(0), np.random.default_rng(0), layers=2800, magnitude=7)
    assert set(calls) == set(OPERATIONS) - {"invert"}
    for name, levels in calls.items():
        assert 140 < len(levels) < 260
        assert set(levels) == ({-0.7, 0.7} if name in auto_augment.SIGNED else {0.7})


@pytest.mark.parametrize("magnitude", [-1, 10.5])
def test_a_magnitude_out_of_range_is_refused(magnitude):
    with pytest.raises(ValueError, match=r"magnitude=.*: expected 0 to 10"):
        auto_augment.rand_augment(_grey(0), np.random.default_rng(0), magnitude=magnitude)


def test_the_imagenet_policy_is_25_pairs_of_known_operations():
    assert len(auto_augment.IMAGENET_POLICY) == 25
    for steps in auto_augment.IMAGENET_POLICY:
        assert len(steps) == 2
        for name, probability, magnitude in steps:
            assert name in OPERATIONS
            assert 0 <= probability <= 1
            assert 0 <= magnitude <= 9


def test_auto_augment_applies_each_operation_as_often_as_its_policy_says(monkeypatch):
    calls = collections.Counter()
    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, lambda image, level, name=name: calls.update([name]) or image)
    rng = np.random.default_rng(0)
    for _ in range(5000):
        auto_augment.auto_augment(_grey(0), rng)
    expected = collections.Counter()
    for name, probability, _ in (step for steps in auto_augment.IMAGENET_POLICY for step in steps):
        expected[name] += 5000 * probability / 25
    assert dict(calls) == pytest.approx(dict(expected), rel=0.15)
