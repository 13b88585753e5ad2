"""The evaluation view is open_clip's, pixel for pixel, and files of any kind become upright 8-bit RGB."""

import contextlib
import io
import os
import re
import socket
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from PIL import Image, features

from rankclip_jax.input_pipeline import csv_file, image_formats, images, loader
from rankclip_jax.input_pipeline.augmentation import Augmentation
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


KINDS = [("RGB", "JPEG", {}), ("L", "JPEG", {}), ("CMYK", "JPEG", {}), ("RGB", "JPEG", {"progressive": True}),
         ("RGB", "PNG", {}), ("RGBA", "PNG", {}), ("P", "PNG", {}), ("LA", "PNG", {}), ("1", "PNG", {}),
         ("P", "GIF", {"transparency": 0}), ("RGB", "WEBP", {}), ("RGB", "BMP", {}),
         ("RGBA", "TIFF", {"compression": "tiff_lzw"})]  # fmt: skip


@pytest.mark.parametrize("size", [(500, 375), (90, 300), (33, 32), (20, 9)], ids=str)
@pytest.mark.parametrize(("mode", "form", "options"), KINDS, ids=str)
def test_the_centre_view_of_training_has_the_pixels_of_the_evaluation_view(size, mode, form, options):
    """As the release, one of whose transforms does both; the order in which views are cut does not matter."""
    content = encoded(picture(*size, mode), form, **options)
    expected = loader.evaluation_pixels(content, 32)
    augmentation = Augmentation(crop="center")
    np.testing.assert_array_equal(augmentation(images.open_picture(content), 32, RNG), expected)
    opened = images.open_picture(content)
    images.random_view(opened, 32, (0.5, 1.0), np.random.default_rng(0))
    np.testing.assert_array_equal(augmentation(opened, 32, RNG), expected)


def other_formats():
    """Files of every other format that Pillow writes, and PostScript, which it reads through another program."""
    yield "EPS", encoded(picture(20, 20), "EPS")
    yield "PSD", b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\4\0\0\0\4\0\x08\0\3" + bytes(60)
    for form in sorted(set(Image.SAVE) - set(image_formats.FORMATS) - {"EPS", "MPO", "DIB"}):
        for mode in ("RGB", "L", "1", "F"):
            try:
                yield form, encoded(picture(16, 16, mode), form)
            except Exception:  # not in this mode, or not without a codec or a program
                continue
            break


def test_no_other_formats_are_opened_and_no_program_is_started(monkeypatch):
    Image.init()
    others = dict(other_formats())
    assert {"EPS", "PPM", "TGA", "SPIDER", "PDF", "ICO"} <= set(others)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    for content in others.values():
        for view in (images.open_image, images.decode, images.open_picture, images.check,
                     lambda content: images.shrink(content, 8, 90)):  # fmt: skip
            with pytest.raises(UnreadableError, match="not an image: expected one of JPEG, PNG, "):
                view(content)


def test_every_place_that_opens_images_names_the_formats():
    root = Path(images.__file__).resolve().parent.parent
    calls = [
        (path, call)
        for folder in ("rankclip_jax", "input_pipeline")
        for path in (root / folder).rglob("*.py")
        for call in re.findall(r"Image\.open\(.*|cv2\.im(?:read|decode).*|imageio.*", path.read_text(encoding="utf8"))
        if "`" not in call
    ]
    assert calls
    assert not [call for call in calls if "formats=" not in call[1]]


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow decodes no AVIF")
def test_avif_is_decoded():
    decoded = np.asarray(images.decode(encoded(picture(64, 48), "AVIF", quality=100, subsampling="4:4:4"))).astype(int)
    assert decoded.shape == (48, 64, 3)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_picture_is_taken(form):
    first, second = (Image.new("RGB", (20, 10), colour) for colour in ("red", "blue"))
    content = encoded(first, form, save_all=True, append_images=[second] * 50, duration=10)
    assert np.abs(np.asarray(images.decode(content)).astype(int) - [255, 0, 0]).max() <= 2
    picture_ = images.open_picture(content)
    assert np.abs(images.centre_view(picture_, 8).astype(int) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize("size", [(300, 80_000), (80_000, 300), (400, 300), (70_000, 260)], ids=str)
def test_shrinking_writes_what_a_jpeg_cannot_hold_as_png(size):
    shrunk = images.shrink(encoded(Image.new("1", size), "PNG"), 256, 92)
    with Image.open(io.BytesIO(shrunk)) as opened:
        assert min(opened.size) == 256
        assert opened.format == ("PNG" if max(opened.size) > 65_500 else "JPEG")


def test_what_cannot_be_written_is_unreadable(monkeypatch):
    def refuse(*_, **__):
        raise OSError("broken data stream when writing image file")

    content = encoded(picture(40, 30), "PNG")
    monkeypatch.setattr(Image.Image, "save", refuse)
    with pytest.raises(UnreadableError, match="cannot be written with 11 x 8 pixels: broken data stream"):
        images.shrink(content, 8, 92)


EVERY_VIEW = {
    "open_picture": images.open_picture,
    "open_image": images.open_image,
    "decode": images.decode,
    "check": images.check,
    "shrink": lambda content, most: images.shrink(content, 8, 90, most),
    "evaluation": lambda content, most: loader.evaluation_pixels(content, 8, most),
}


@pytest.mark.parametrize("view", EVERY_VIEW)
@pytest.mark.parametrize(("mode", "form", "options"), KINDS, ids=str)
def test_an_image_of_more_pixels_than_allowed_is_not_decoded(view, mode, form, options, monkeypatch):
    content = encoded(picture(40, 30, mode), form, **options)
    EVERY_VIEW[view](content, 2 * 40 * 30)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    monkeypatch.setattr(images.simplejpeg, "decode_jpeg", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(UnreadableError, match=r"40 x 30 pixels.*expected at most 1,199"):
        EVERY_VIEW[view](content, 1199)


def test_formats_that_take_twice_the_memory_count_twice():
    content = encoded(picture(40, 30), "WEBP")
    images.open_image(content, 2400)
    with pytest.raises(UnreadableError, match="40 x 30 pixels, which count 2 times in WEBP"):
        images.open_image(content, 2399)


def test_a_progressive_jpeg_of_too_many_scans_is_not_decoded():
    """Ten are usual; a small image may have more, since they take no time."""
    usual = encoded(Image.new("L", (4096, 4096), 77), "JPEG", progressive=True)
    scan = b"\xff\xda\0\x08\1\1\0\1\x3f\0" + bytes(4)
    images.check(usual)
    with pytest.raises(UnreadableError, match="a JPEG of 4096 x 4096 pixels in more than 128 scans"):
        images.open_picture(usual[:-2] + 200 * scan + usual[-2:])
    thumbnail = b"\xff\xe1\xff\xff" + (b"\xff\xda" * 40_000)[: 0xFFFF - 2]  # bytes that only look like scans
    np.testing.assert_array_equal(
        images.open_picture(usual[:2] + thumbnail + usual[2:]).view((0, 0, 4096, 4096), (8, 8)), 77
    )
    small = encoded(picture(40, 30), "JPEG", progressive=True)
    assert image_formats.jpeg_scan_count(small, 100) == 10
    assert image_formats.jpeg_scan_count(encoded(picture(40, 30), "JPEG"), 100) == 1


@pytest.fixture
def special(tmp_path):
    """Paths that are no files: reading some of them would wait, or never end."""
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "endless.jpg").symlink_to("/dev/zero")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "socket.jpg"))
        yield [*sorted(tmp_path.iterdir()), tmp_path / "gone.jpg", tmp_path / "a\0b.jpg", tmp_path / ("x" * 300)]


def test_what_is_no_regular_file_is_unreadable_at_once(special):
    for path in special:
        for view in (images.read, images.open_image, images.open_picture, images.decode,
                     lambda path: loader.evaluation_pixels(path, 8)):  # fmt: skip
            with pytest.raises(UnreadableError):
                view(path)


def test_a_file_without_end_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_LARGEST_FILE", 1 << 20)
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UnreadableError, match="expected at most 1,048,576 bytes; found more"):
        images.read(tmp_path / "sparse.jpg")


def test_special_files_are_replaced_in_training_and_named_in_evaluation(special, caplog):
    good = special[0].parent / "good.png"
    picture(40, 30).save(good)
    paths = (*special[:4], good)
    source = csv_file.CsvFile(paths, tuple(path.name for path in paths))
    stream = loader.training_batches(
        source, image_size=8, context_length=8, augmentation=Augmentation(), global_batch_size=20, seed=0,
        start_step=0, threads=1, workers=0,
    )  # fmt: skip
    batch = next(stream)
    stream.close()
    assert set(batch["sample"]) == {4}
    assert {line.split(": ")[0] for line in batch["unreadable"]} == {str(path) for path in special[:4]}
    (batch,) = loader.evaluation_batches(source, image_size=8, batch_size=5, size=5)
    assert batch["readable"].tolist() == [False, False, False, False, True]
    for path in special[:4]:
        assert f"unreadable: {path}: " in caplog.text


def test_pixels_of_no_size_are_unreadable():
    for shape in ((0, 4, 3), (4, 0, 3), (0, 0, 3)):
        for view in (images.in_memory, lambda pixels: loader.evaluation_pixels(pixels, 8)):
            with pytest.raises(UnreadableError, match="an image without pixels"):
                view(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("kind", [0, 2, 5, 12, 16, 99])
@pytest.mark.parametrize("tag", [256, 257, 258, 259, 277])
def test_a_tiff_whose_sizes_are_of_another_type_is_unreadable_or_read(tag, kind):
    """Among them a 64-bit number, for which an entry of a small TIFF has no room."""
    content = bytearray(encoded(Image.new("RGB", (9, 7)), "TIFF"))
    (start,) = struct.unpack_from("<I", content, 4)
    entries = [start + 2 + 12 * number for number in range(struct.unpack_from("<H", content, start)[0])]
    (entry,) = (place for place in entries if struct.unpack_from("<H", content, place)[0] == tag)
    struct.pack_into("<HI", content, entry + 2, kind, 1)
    with contextlib.suppress(UnreadableError):
        assert np.asarray(images.decode(bytes(content))).shape == (7, 9, 3)


@pytest.mark.parametrize("values", [[0.0, 255.0, np.nan, -3.0], [0.0, 65535.0, np.inf, 300.0]], ids=str)
def test_grey_values_that_are_no_numbers_are_black(values):
    content = encoded(Image.fromarray(np.asarray([values], np.float32)), "TIFF")
    decoded = np.asarray(images.decode(content))[0, :, 0]
    assert decoded[:2].tolist() == [0, 255]


def test_colours_of_which_no_rgb_can_be_made_are_unreadable():
    with pytest.raises(UnreadableError, match="image mode LAB, which cannot be converted"):
        images.decode(encoded(Image.new("LAB", (9, 9)), "TIFF"))
