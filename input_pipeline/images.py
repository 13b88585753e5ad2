"""Image decoding: opens image files or their bytes, and cuts the training crop and the evaluation view.

For crops, a JPEG is decoded at a half, a quarter or an eighth of its size if that leaves 1.5 times the pixels needed.
OpenCV then resizes random crops, in a fifth of Pillow's time; preparation, which runs once, uses Pillow. The evaluation
view, also the center view of training, decodes the full image and resizes it like open_clip.

Decoding takes at most about 12 bytes of memory per allowed pixel: 0.8 GB by default.
"""

import functools
import io
import math
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from . import image_formats, orientation
from .errors import UnreadableError
from .files import open_regular
from .orientation import Box

MAX_PIXELS = 1 << 26  # the default: 64 megapixels, as of phones, a hundred times what training uses
MOST_PIXELS = 178_956_970  # the maximum setting: Pillow opens no larger images
_MAX_SIDE = 1 << 20  # pixels; each row of an image takes additional memory
_LARGEST_FILE = 1 << 30  # bytes
_HEAVY = {"WEBP": 2, "AVIF": 2}  # memory of these decoders relative to the others
_SLOW = 4  # relative time for a run-length encoded BMP, which Pillow decodes in Python
_SCANS, _SCANNED = 32, 1 << 31  # maximum scans of a JPEG; more are allowed up to this number of scanned pixels
_MOST_RESIZED = 1 << 26  # pixels; larger resized images are cropped while resizing
_SPARE = 1.5  # a JPEG is decoded at this multiple of the pixels needed per side, if it has them
_MOST_SMOOTHED = 3.1  # the largest reduction for which a 3-tap filter smooths enough
_CROP_TRIES = 10
_NARROWEST, _WIDEST = 3 / 4, 4 / 3  # width to height of a random crop
_MAX_JPEG_SIDE = 65_500  # pixels; the maximum for writing
_MODES = frozenset(["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"])  # to RGB

cv2.setNumThreads(1)  # rows of a batch are already resized in parallel


class Picture(Protocol):
    """An upright image to cut views from."""

    width: int
    height: int

    def view(self, box: Box, size: tuple[int, int]) -> np.ndarray:
        """Returns the box resized to ``size`` (width, height): uint8 ``[h, w, 3]``, bicubic with anti-aliasing."""
        ...

    def whole(self) -> Image.Image:
        """Returns the full image in its own mode, as from `open_image`."""
        ...

    def reduced(self, reduction: float) -> Image.Image:
        """Returns the full image in RGB, possibly smaller by up to ``reduction`` on each side."""
        ...


class _Decoded:
    """An image in memory."""

    def __init__(self, image: Image.Image) -> None:
        self._image = image
        self.width, self.height = image.size

    def view(self, box: Box, size: tuple[int, int]) -> np.ndarray:
        return np.asarray(self._rgb.resize(size, Image.Resampling.BICUBIC, box=box))

    def whole(self) -> Image.Image:
        return self._image

    def reduced(self, reduction: float) -> Image.Image:
        del reduction
        return self._rgb

    @functools.cached_property
    def _rgb(self) -> Image.Image:
        return self._image if self._image.mode == "RGB" else self._image.convert("RGB")


class _Jpeg:
    """A JPEG with only its header read; each view decodes it at the scale that it needs."""

    def __init__(self, content: bytes, width: int, height: int, turned: int, max_pixels: int) -> None:
        self._content, self._turned, self._max_pixels = content, turned, max_pixels
        self._stored = width, height
        self.width, self.height = (height, width) if orientation.swaps_sides(turned) else (width, height)

    def view(self, box: Box, size: tuple[int, int]) -> np.ndarray:
        """See `Picture.view`; rounds the box to whole pixels of the decoded image."""
        left, top, right, bottom = orientation.turn_box_back(box, self.width, self.height, self._turned)
        stored = size[::-1] if orientation.swaps_sides(self._turned) else size
        reduction = min((right - left) / stored[0], (bottom - top) / stored[1])
        pixels, scale = self._decode(reduction / _SPARE)
        if pixels is None:
            return _Decoded(self.whole()).view(box, size)
        # The size of a scaled image is rounded up to whole pixels, that of the box is not.
        left, top, right, bottom = (round(edge * scale) for edge in (left, top, right, bottom))
        right, bottom = min(max(right, left + 1), pixels.shape[1]), min(max(bottom, top + 1), pixels.shape[0])
        left, top = min(left, right - 1), min(top, bottom - 1)
        ratios = (right - left) / stored[0], (bottom - top) / stored[1]
        if max(ratios) > _MOST_SMOOTHED:
            cut = _Decoded(Image.fromarray(pixels)).view((left, top, right, bottom), stored)
        else:
            cut = _resize(pixels[top:bottom, left:right], stored, ratios)
        return orientation.turn_pixels(cut, self._turned)

    def whole(self) -> Image.Image:
        return open_image(self._content, self._max_pixels)

    def reduced(self, reduction: float) -> Image.Image:
        pixels = self._decode(reduction)[0]
        if pixels is None:
            return self.whole().convert("RGB")
        return orientation.turn(Image.fromarray(pixels), self._turned)

    def _decode(self, reduction: float) -> tuple[np.ndarray | None, float]:
        """Decodes to uint8 ``[h, w, 3]`` as stored, at the smallest scale >= ``1 / reduction``; None if damaged."""
        scale = next((1 / part for part in (8, 4, 2) if part <= reduction), 1.0)
        width, height = (math.ceil(side * scale) for side in self._stored)
        try:
            return simplejpeg.decode_jpeg(self._content, min_height=height, min_width=width), scale
        except ValueError:  # Pillow tolerates more, and reports the fault
            return None, scale


def _resize(pixels: np.ndarray, size: tuple[int, int], ratios: tuple[float, float]) -> np.ndarray:
    """Resizes bicubically with anti-aliasing, for reductions up to `_MOST_SMOOTHED`, in a fifth of Pillow's time.

    OpenCV's bicubic has no anti-aliasing, so a 3-tap filter smooths each axis first. Its weights were fitted to Pillow
    on noise: pixels differ by less than one grey level on average.
    """
    across, down = (np.float32(np.clip(0.28 * (ratio - 1), 0, 1 / 3)) for ratio in ratios)
    if across > 0 or down > 0:
        row, column = (np.array([weight, 1 - 2 * weight, weight]) for weight in (across, down))
        pixels = cv2.sepFilter2D(pixels, -1, row, column, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC)


def read(image: Path | bytes) -> bytes:
    """Returns the content of an image file, or the given bytes.

    Raises:
      UnreadableError: the file is missing, not regular, unreadable or too large.
    """
    if not isinstance(image, Path):
        return image
    try:
        with open_regular(image) as file:
            content = file.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        raise UnreadableError(str(error)) from error
    if len(content) > _LARGEST_FILE:
        raise UnreadableError(f"expected at most {_LARGEST_FILE:,} bytes; found more")
    return content


def in_memory(pixels: np.ndarray) -> Picture:
    """Returns a picture of uint8 pixels ``[H, W, 3]``.

    Raises:
      UnreadableError: the array has no pixels.
    """
    return _Decoded(of_pixels(pixels))


def of_pixels(pixels: np.ndarray) -> Image.Image:
    """Returns a Pillow image of uint8 pixels ``[H, W, 3]``.

    Raises:
      UnreadableError: the array has no pixels.
    """
    if not pixels.size:
        raise UnreadableError(f"an image without pixels: {list(pixels.shape)}")
    return Image.fromarray(pixels)


def open_picture(image: Path | bytes, max_pixels: int = MAX_PIXELS) -> Picture:
    """Opens an image to cut training views from; a JPEG is decoded lazily for each view.

    Args:
      image: a file, or its bytes.
      max_pixels: see `open_image`.

    Raises:
      UnreadableError: for any fault, also while cutting a view; the caller replaces the record.
    """
    content = read(image)
    if image_formats.format_of(content) == "JPEG":
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        except ValueError:
            return _Decoded(open_image(content, max_pixels))
        if colours in ("YCbCr", "Gray", "RGB") and min(width, height) > 0:
            _check_work(content, "JPEG", width, height, max_pixels)
            return _Jpeg(content, width, height, orientation.of_file(content, "JPEG"), max_pixels)
    return _Decoded(open_image(content, max_pixels))


def open_image(image: Path | bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens an image file, or its bytes, upright and in its own mode; 16-bit images become 8-bit.

    Of an animation, it opens the first picture. It ignores all metadata except the orientation.

    Args:
      image: the file.
      max_pixels: larger images are not decoded; pixels of WebP and AVIF, which take twice the memory, count twice.

    Raises:
      UnreadableError: for any fault; the caller replaces or reports the record.
    """
    content = read(image)
    form = image_formats.format_of(content)
    bare = image_formats.without_metadata(content, form)
    turned = orientation.of_file(content, form)
    try:
        with Image.open(io.BytesIO(bare), formats=(form,)) as opened:
            _check_work(content, form, *opened.size, max_pixels)
            opened.load()
            if form == "AVIF":
                turned = orientation.of_opened(opened)
            return orientation.turn(_eight_bit(opened), turned)
    except UnreadableError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableError(f"no {form} image that can be decoded, though it begins as one") from error
    except Exception as error:  # Pillow's decoders raise undocumented types
        raise UnreadableError(f"{form}: {error or type(error).__name__}") from error


def as_opened(image: Image.Image) -> Image.Image:
    """Converts a Pillow image to the form of `open_image`; applies the orientation of one from `PIL.Image.open`.

    Raises:
      UnreadableError: the image cannot be decoded, has no pixels, or has unsupported values.
    """
    if not min(image.size):
        raise UnreadableError(f"an image without pixels: {image.width} x {image.height}")
    try:
        image.load()
    except Exception as error:  # as above
        raise UnreadableError(str(error) or type(error).__name__) from error
    turned = orientation.of_opened(image)
    if turned != 1 or "transparency" in image.info:  # leaves the caller's image unchanged
        image = orientation.turn(image, turned)
    return _eight_bit(image)


def decode(image: Path | bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens an image file, or its bytes, upright, as 8-bit RGB.

    Raises:
      UnreadableError: see `open_image`.
    """
    return open_image(image, max_pixels).convert("RGB")


def random_view(
    picture: Picture, image_size: int, crop_scale: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """Returns a random resized crop, uint8 ``[image_size, image_size, 3]``, with an aspect ratio from 3:4 to 4:3.

    The box is drawn like torchvision's ``RandomResizedCrop``, which open_clip uses.

    Args:
      picture: the image to crop.
      image_size: side of the view in pixels.
      crop_scale: bounds of the crop's fraction of the image's area.
      rng: draws the box.
    """
    return picture.view(_random_box(picture.width, picture.height, crop_scale, rng), (image_size, image_size))


def centre_view(picture: Picture, image_size: int) -> np.ndarray:
    """Returns the evaluation view for training: uint8 ``[image_size, image_size, 3]``."""
    return evaluation_view(picture.whole(), image_size)


def shrink(content: bytes, short_side: int, quality: int, max_pixels: int = MAX_PIXELS) -> bytes:
    """Resizes an image to ``short_side`` and returns it as JPEG; returns smaller images unchanged.

    An image that is too long for JPEG becomes a PNG.

    Raises:
      UnreadableError: the image cannot be decoded or written.
    """
    picture = open_picture(content, max_pixels)
    reduction = min(picture.width, picture.height) / short_side
    image = picture.reduced(reduction / _SPARE)
    if reduction <= 1:
        return content
    size = (round(picture.width / reduction), round(picture.height / reduction))
    file = io.BytesIO()
    try:
        shrunk = image.resize(size, Image.Resampling.BICUBIC)
        shrunk.save(file, "JPEG" if max(size) <= _MAX_JPEG_SIDE else "PNG", quality=quality)
    except Exception as error:  # Pillow's encoders raise undocumented types
        raise UnreadableError(f"cannot be written with {size[0]} x {size[1]} pixels: {error}") from error
    return file.getvalue()


def check(content: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Returns width and height; decodes a JPEG only if its end mark is missing.

    Raises:
      UnreadableError: the content is not an image, or is truncated.
    """
    picture = open_picture(content, max_pixels)
    if isinstance(picture, _Jpeg) and b"\xff\xd9" not in content[-1024:]:
        picture.whole()  # some have data after the end mark, so decoding decides
    return picture.width, picture.height


def evaluation_view(image: Image.Image, image_size: int) -> np.ndarray:
    """Resizes the short side to ``image_size`` and crops the center: uint8 ``[image_size, image_size, 3]``.

    Matches CLIP: bicubic with anti-aliasing in the image's own mode, sizes rounded down, crop offsets rounded to even,
    and conversion to RGB at the end.
    """
    (width, height), (left, top) = _centre(image.width, image.height, image_size)
    if width * height <= _MOST_RESIZED:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        image = image.crop((left, top, left + image_size, top + image_size))
    else:  # the same except for rounding, without allocating the cropped-away part
        across, down = image.width / width, image.height / height
        box = (left * across, top * down, (left + image_size) * across, (top + image_size) * down)
        image = image.resize((image_size, image_size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(image.convert("RGB"))


def _centre(width: int, height: int, image_size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns the resized size with a short side of ``image_size``, and the offset of its center crop."""
    short = min(width, height)
    size = image_size * width // short, image_size * height // short
    return size, (round((size[0] - image_size) / 2), round((size[1] - image_size) / 2))


def _check_work(content: bytes, form: str, width: int, height: int, max_pixels: int) -> None:
    """Raises UnreadableError for an image that takes more memory or time than ``max_pixels`` allow."""
    weight = _HEAVY.get(form, 1)
    if form == "BMP" and int.from_bytes(content[30:34], "little") in (1, 2):
        weight = _SLOW
    if width * height * weight > max_pixels or max(width, height) > _MAX_SIDE:
        counted = f", which count {weight} times in {form}" if weight > 1 else ""
        raise UnreadableError(
            f"too large: {width} x {height} pixels{counted}; expected at most {max_pixels:,} (max_pixels), and "
            f"{_MAX_SIDE:,} on a side"
        )
    if form == "JPEG":
        most = max(_SCANS, _SCANNED // (width * height))
        if image_formats.jpeg_scan_count(content, most) > most:
            raise UnreadableError(f"a JPEG of {width} x {height} pixels in more than {most} scans, so not decoded")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Converts 16-bit grey values, also those stored in 32 bits, to 8 bits; returns other images unchanged.

    Raises:
      UnreadableError: the mode cannot be converted to RGB.
    """
    image.info.pop("transparency", None)  # of a palette: Pillow warns about it, and RGB cannot hold it
    if not image.mode.startswith(("I", "F")):
        if image.mode not in _MODES:
            raise UnreadableError(f"image mode {image.mode}, which cannot be converted to RGB")
        return image
    values = np.asarray(image)
    result = np.empty(values.shape, np.uint8)
    per_step = 257 if image.mode.startswith("I;16") or values.max() > 255 else 1
    rows = max(1, (1 << 20) // image.width)  # in parts, since floats take four times the memory
    for top in range(0, image.height, rows):
        part = np.nan_to_num(values[top : top + rows].astype(np.float32))
        result[top : top + rows] = np.clip(np.rint(part / per_step), 0, 255)
    return Image.fromarray(result)


def _random_box(width: int, height: int, crop_scale: tuple[float, float], rng: np.random.Generator) -> Box:
    """Tries ten random boxes; if none fits, returns the center box within the aspect-ratio bounds."""
    for _ in range(_CROP_TRIES):
        area = width * height * rng.uniform(*crop_scale)
        aspect = math.exp(rng.uniform(math.log(_NARROWEST), math.log(_WIDEST)))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            left, top = int(rng.integers(width - box_width + 1)), int(rng.integers(height - box_height + 1))
            return left, top, left + box_width, top + box_height
    box_width = min(width, max(round(height * _WIDEST), 1))
    box_height = min(height, max(round(width / _NARROWEST), 1))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height
