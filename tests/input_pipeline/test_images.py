"""The evaluation view is open_clip's, pixel for pixel, and files of any kind become upright 8-bit RGB."""

import io

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from rankclip_jax.input_pipeline import images
from rankclip_jax.input_pipeline.errors import UnreadableError
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


@pytest.mark.parametrize("size", [(1, 1), (30_000, 2), (2, 5000), (7, 7), (64, 48), (500, 375), (1600, 1200)], ids=str)
@pytest.mark.parametrize(("mode", "form"), [("RGB", "JPEG"), ("L", "JPEG"), ("RGBA", "PNG")])
def test_training_views_are_cut_from_images_of_any_size(size, mode, form):
    content = encoded(picture(*size, mode), form)
    for seed in range(5):
        view = images.random_view(images.open_picture(content), 32, (0.05, 1.0), np.random.default_rng(seed))
        assert (view.dtype, view.shape) == (np.uint8, (32, 32, 3))


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (900, 100), (64, 300), (224, 224), (3, 2), (1, 1)], ids=str)
@pytest.mark.parametrize("scale", [(0.9, 1.0), (0.08, 1.0), (1.0, 1.0)], ids=str)
def test_training_crops_are_distributed_as_torchvisions(size, scale):
    """Share of the area, aspect and place of 4,000 boxes of each, by their distributions."""
    torch = pytest.importorskip("torch")
    import_torch("the test")
    crop = pytest.importorskip("torchvision.transforms").RandomResizedCrop
    width, height = size
    torch.manual_seed(0)
    blank = torch.zeros(1, height, width)
    theirs = np.array([crop.get_params(blank, scale, (3 / 4, 4 / 3)) for _ in range(4000)], float)[:, [1, 0, 3, 2]]
    rng = np.random.default_rng(0)
    ours = np.array([images._random_box(width, height, scale, rng) for _ in range(4000)], float)
    ours[:, 2:] -= ours[:, :2]

    def facts(boxes):
        left, top, wide, high = boxes.T
        return np.stack([left, top, wide, high, wide * high / (width * height), np.log(wide / high)], axis=1)

    for one, other in zip(facts(ours).T, facts(theirs).T, strict=True):
        assert scipy.stats.ks_2samp(one, other, method="asymp").pvalue > 1e-5
    if size == (500, 375) and scale == (0.9, 1.0):
        assert facts(ours)[:, 4].mean() == pytest.approx(0.959, abs=0.005)


@pytest.mark.parametrize("size", [(500, 375), (90, 300), (32, 32), (33, 32)], ids=str)
def test_the_centre_crop_is_the_releases_view(size):
    """CLIP's own transform: short side resized, centre cut out; to one grey level in the mean."""
    picture_ = picture(*size)
    exact = images.evaluation_view(picture_, 32).astype(float)
    from_memory = images.centre_view(images.in_memory(np.asarray(picture_)), 32)
    assert np.abs(from_memory - exact).mean() < 1
    if size == (32, 32):
        np.testing.assert_array_equal(from_memory, np.asarray(picture_))


@pytest.mark.parametrize(("side", "crop"), [(500, 490), (500, 320), (500, 224), (500, 150), (1600, 1500), (3000, 2000)])
def test_training_views_are_as_close_to_pillows_bicubic_as_its_own_filters_are_to_each_other(side, crop):
    """Shades as strong as they are wide, as in photographs; a box of whole eighths, so that both cut out the same."""
    rng = np.random.default_rng(0)
    shades = sum(
        np.kron(rng.normal(0, 0.6 * cell, (-(-side // cell),) * 2 + (3,)), np.ones((cell, cell, 1)))[:side, :side]
        for cell in (2, 4, 8, 16, 32, 64)
    )
    content = encoded(Image.fromarray(np.clip(128 + shades, 0, 255).astype(np.uint8)), "JPEG", quality=92)
    box = (8, 0, 8 + crop // 8 * 8, crop // 8 * 8)
    ours = np.asarray(images.open_picture(content).view(box, (224, 224)), float)
    whole, filters = images.decode(content), Image.Resampling
    expected, other = (
        np.asarray(whole.resize((224, 224), resampling, box=box), float)
        for resampling in (filters.BICUBIC, filters.HAMMING)
    )
    assert np.abs(ours - expected).mean() < 1.3 * np.abs(other - expected).mean() + 0.1
    for shift in ((0, 1), (1, 0)):  # a view that is off by one pixel would differ by much more
        moved = np.roll(ours, shift, axis=(0, 1))
        assert np.abs(moved - expected)[4:-4, 4:-4].mean() > 3 * np.abs(ours - expected)[4:-4, 4:-4].mean()


def test_a_damaged_jpeg_is_unreadable_however_much_of_it_is_there():
    content = encoded(picture(300, 200), "JPEG")
    for part in (0.1, 0.5, 0.95):
        with pytest.raises(UnreadableError):
            images.open_picture(content[: int(part * len(content))]).view((0, 0, 300, 200), (32, 32))
