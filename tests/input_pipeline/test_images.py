"""The evaluation view is open_clip's, pixel for pixel, and files of any kind become upright 8-bit RGB."""

import io

import numpy as np
import pytest
from PIL import Image

from input_pipeline import images
from rankclip_jax.interop.files import import_torch

RNG = np.random.default_rng(0)


def picture(width, height, mode="RGB"):
    """Smooth shades with noise, as photographs have both."""
    shades = np.indices((height, width)).sum(0)[..., None] * np.array([1, 2, 3, 1])
    values = (shades + RNG.integers(0, 60, (height, width, 4))) % 256
    rgba = Image.fromarray(values.astype(np.uint8), "RGBA")
    return rgba if mode == "RGBA" else rgba.convert("RGB").convert(mode)


SIZES = [(224, 224), (300, 400), (401, 299), (50, 31), (1, 1), (2, 900), (1000, 223), (225, 224), (640, 480)]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "1"])
@pytest.mark.filterwarnings("ignore")
def test_the_evaluation_view_is_open_clips(mode):
    pytest.importorskip("torch")
    import_torch("the test")
    image_transform = pytest.importorskip("open_clip.transform").image_transform
    for side in (32, 224):
        theirs = image_transform(side, is_train=False, mean=(0, 0, 0), std=(1, 1, 1))
        for width, height in SIZES:
            image = picture(width, height, mode)
            expected = np.rint(theirs(image).numpy().transpose(1, 2, 0) * 255)
            ours = images.evaluation_view(image, side).astype(int)
            assert np.abs(ours - expected).max() <= 1, (mode, side, width, height)


def test_the_centre_of_a_very_long_image_is_cut_out_before_it_grows():
    image = picture(6000, 1)
    whole = image.resize((128 * 6000, 128), Image.Resampling.BICUBIC)
    expected = np.asarray(whole.crop((64 * 6000 - 64, 0, 64 * 6000 + 64, 128))).astype(int)
    assert np.abs(images.evaluation_view(image, 128) - expected).max() <= 3
    assert images.evaluation_view(picture(30_000, 2), 224).shape == (224, 224, 3)


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def test_16_bits_become_8():
    values = np.linspace(0, 65535, 256).reshape(16, 16).astype(np.uint16)
    decoded = images.decode(encoded(Image.fromarray(values), "PNG"))
    np.testing.assert_array_equal(np.asarray(decoded)[..., 0].ravel(), np.arange(256))


def test_an_image_lies_as_its_camera_was_held():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    decoded = images.decode(encoded(picture(40, 20), "JPEG", exif=exif))
    assert decoded.size == (20, 40)


@pytest.mark.parametrize(
    ("mode", "form", "options"),
    [("CMYK", "JPEG", {}), ("P", "PNG", {"transparency": b"\x00\x80"}), ("RGBA", "PNG", {}), ("L", "JPEG", {}),
     ("1", "PNG", {}), ("P", "GIF", {"save_all": True, "append_images": [picture(9, 9, "P")]}), ("RGBA", "WEBP", {})],
)  # fmt: skip
def test_every_kind_of_file_becomes_rgb(mode, form, options):
    decoded = images.decode(encoded(picture(9, 9, mode), form, **options))
    assert (decoded.mode, decoded.size) == ("RGB", (9, 9))
