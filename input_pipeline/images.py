"""From image files, or their bytes, to pixels: opening, the training crop and the evaluation view.

A JPEG is decoded at a half, a quarter or an eighth where that leaves one and a half times the pixels asked for.
Random crops are then resized by OpenCV, which takes a fifth of Pillow's time; preparation, which is done once, uses
Pillow. The evaluation view, which is the centre view of training too, decodes whole and resizes as open_clip does.

Decoding takes at most about 12 bytes of memory for each pixel that is allowed: 0.8 GB at the default.
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

from . import image_files, orientation
from .errors import UnreadableError
from .files import open_regular
from .orientation import Box

MAX_PIXELS = 1 << 26  # of an image, unless told otherwise: phones' 64 megapixels, a hundred times what training uses
MOST_PIXELS = 178_956_970  # that may be allowed: Pillow opens no more
_LONGEST = 1 << 20  # pixels of a side: each row of an image takes memory of its own
_LARGEST_FILE = 1 << 30  # bytes
_HEAVY = {"WEBP": 2, "AVIF": 2}  # formats whose decoders hold an image so many times as often as the others'
_SLOW = 4  # times that a run-length coded BMP takes, which Pillow unpacks in Python
_SCANS, _SCANNED = 32, 1 << 31  # a JPEG may have so many scans, or more while their pixels are no more than these
_MOST_RESIZED = 1 << 26  # pixels, of an image that is resized whole before its centre is cut out
_SPARE = 1.5  # a JPEG is decoded with at least so many times the pixels asked for, per side, where it has them
_MOST_SMOOTHED = 3.1  # reductions up to which three weights are smoothing enough
_CROP_TRIES = 10
_NARROWEST, _WIDEST = 3 / 4, 4 / 3  # width to height of a random crop
_LONGEST_JPEG = 65_500  # pixels of a side that can be written
_MODES = frozenset(["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"])  # to RGB

cv2.setNumThreads(1)  # rows of a batch are resized side by side already


class Picture(Protocol):
    """An image, upright, that views can be cut from."""

    width: int
    height: int

    def view(self, box: Box, size: tuple[int, int]) -> np.ndarray:
        """The box resized to ``size``, width and height: uint8 ``[h, w, 3]``, bicubic with anti-aliasing."""
        ...

    def whole(self) -> Image.Image:
        """All of it, in its own mode, as `open_image` returns it."""
        ...

    def reduced(self, reduction: float) -> Image.Image:
        """All of it in RGB, as large as it is or smaller, at the most by ``reduction`` on each side."""
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
    """A JPEG of which only the header is read; each view decodes it at the scale that it needs."""

    def __init__(self, content: bytes, width: int, height: int, turned: int, max_pixels: int) -> None:
        self._content, self._turned, self._max_pixels = content, turned, max_pixels
        self._stored = width, height
        self.width, self.height = (height, width) if orientation.swaps_sides(turned) else (width, height)

    def view(self, box: Box, size: tuple[int, int]) -> np.ndarray:
        """The box is rounded to whole pixels of what is decoded."""
        left, top, right, bottom = orientation.turn_box_back(box, self.width, self.height, self._turned)
        stored = size[::-1] if orientation.swaps_sides(self._turned) else size
        reduction = min((right - left) / stored[0], (bottom - top) / stored[1])
        pixels, scale = self._decode(reduction / _SPARE)
        if pixels is None:
            return _Decoded(self.whole()).view(box, size)
        # A scaled image is rounded up to whole pixels, the box is not.
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
        """uint8 ``[h, w, 3]`` as stored, at the smallest scale of at least ``1 / reduction``; None: it is damaged."""
        scale = next((1 / part for part in (8, 4, 2) if part <= reduction), 1.0)
        width, height = (math.ceil(side * scale) for side in self._stored)
        try:
            return simplejpeg.decode_jpeg(self._content, min_height=height, min_width=width), scale
        except ValueError:  # Pillow forgives other things, and says what is wrong
            return None, scale


def _resize(pixels: np.ndarray, size: tuple[int, int], ratios: tuple[float, float]) -> np.ndarray:
    """Bicubic with anti-aliasing, for reductions of up to `_MOST_SMOOTHED`, in a fifth of Pillow's time.

    OpenCV's bicubic has no anti-aliasing, so each axis is smoothed with three weights first. How much was found by
    comparing with Pillow's on noise: pixels differ by less than one grey level on average.
    """
    across, down = (np.float32(np.clip(0.28 * (ratio - 1), 0, 1 / 3)) for ratio in ratios)
    if across > 0 or down > 0:
        row, column = (np.array([weight, 1 - 2 * weight, weight]) for weight in (across, down))
        pixels = cv2.sepFilter2D(pixels, -1, row, column, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC)


def read(image: Path | bytes) -> bytes:
    """The content of an image file, or the bytes given.

    Raises:
      UnreadableError: there is no such regular file, or it cannot be read, or is too large.
    """
    if not isinstance(image, Path):
        return image
    try:
        with open_regular(image) as file:
            content = file.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        raise UnreadableError(str(error)) from error
    if len(content) > _LARGEST_FILE:
        raise UnreadableError(f"more than {_LARGEST_FILE:,} bytes")
    return content


def in_memory(pixels: np.ndarray) -> Picture:
    """A picture of uint8 pixels ``[H, W, 3]``.

    Raises:
      UnreadableError: there are none.
    """
    return _Decoded(of_pixels(pixels))


def of_pixels(pixels: np.ndarray) -> Image.Image:
    """An image of uint8 pixels ``[H, W, 3]``.

    Raises:
      UnreadableError: there are none.
    """
    if not pixels.size:
        raise UnreadableError(f"an image without pixels: {list(pixels.shape)}")
    return Image.fromarray(pixels)


def open_picture(image: Path | bytes, max_pixels: int = MAX_PIXELS) -> Picture:
    """Opens an image to cut training views from; a JPEG is decoded when they are.

    Args:
      image: a file, or its bytes.
      max_pixels: see `open_image`.

    Raises:
      UnreadableError: whatever the reason; the caller replaces the record. Cutting a view may raise it too.
    """
    content = read(image)
    if image_files.format_of(content) == "JPEG":
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        except ValueError:
            return _Decoded(open_image(content, max_pixels))
        if colours in ("YCbCr", "Gray", "RGB") and min(width, height) > 0:
            _check_work(content, "JPEG", width, height, max_pixels)
            return _Jpeg(content, width, height, orientation.of_file(content, "JPEG"), max_pixels)
    return _Decoded(open_image(content, max_pixels))


def open_image(image: Path | bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens an image file, or its bytes, upright, in its own mode but for 16-bit ones, which become 8-bit.

    Of an animation it is the first picture. Metadata is passed over, but for the orientation.

    Args:
      image: the file.
      max_pixels: an image of more is not decoded; WebP and AVIF, which take twice the memory, count twice.

    Raises:
      UnreadableError: whatever the reason; the caller replaces the record or names it.
    """
    content = read(image)
    form = image_files.format_of(content)
    bare = image_files.without_metadata(content, form)
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
    except Exception as error:  # whatever Pillow's decoders raise, of which they have no list
        raise UnreadableError(f"{form}: {error or type(error).__name__}") from error


def as_opened(image: Image.Image) -> Image.Image:
    """An image of Pillow's as `open_image` returns it; what `PIL.Image.open` returned is turned as its file would be.

    Raises:
      UnreadableError: it cannot be decoded, has no pixels, or has some that are no colours.
    """
    if not min(image.size):
        raise UnreadableError(f"an image without pixels: {image.width} x {image.height}")
    try:
        image.load()
    except Exception as error:  # as above
        raise UnreadableError(str(error) or type(error).__name__) from error
    turned = orientation.of_opened(image)
    if turned != 1 or "transparency" in image.info:  # the caller's own stays as it is
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
    """A random crop of between 3:4 and 4:3, resized: uint8 ``[image_size, image_size, 3]``.

    The box is drawn as by torchvision's ``RandomResizedCrop``, with which open_clip trains.

    Args:
      picture: what to cut from.
      image_size: side of the view in pixels.
      crop_scale: bounds of the crop's share of the image's area.
      rng: draws the box.
    """
    return picture.view(_random_box(picture.width, picture.height, crop_scale, rng), (image_size, image_size))


def centre_view(picture: Picture, image_size: int) -> np.ndarray:
    """The evaluation view of a picture, for training on it: uint8 ``[image_size, image_size, 3]``."""
    return evaluation_view(picture.whole(), image_size)


def shrink(content: bytes, short_side: int, quality: int, max_pixels: int = MAX_PIXELS) -> bytes:
    """A JPEG of the image with a short side of ``short_side``; the same bytes where it has no more already.

    What is longer than a JPEG can be becomes a PNG.

    Raises:
      UnreadableError: it cannot be decoded, or not be written.
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
        shrunk.save(file, "JPEG" if max(size) <= _LONGEST_JPEG else "PNG", quality=quality)
    except Exception as error:  # whatever Pillow's encoders raise
        raise UnreadableError(f"cannot be written with {size[0]} x {size[1]} pixels: {error}") from error
    return file.getvalue()


def check(content: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height by the header, and a look at the end, without decoding a JPEG that has one.

    Raises:
      UnreadableError: it is no image, or is truncated.
    """
    picture = open_picture(content, max_pixels)
    if isinstance(picture, _Jpeg) and b"\xff\xd9" not in content[-1024:]:
        picture.whole()  # some have more after their end mark; decoding tells
    return picture.width, picture.height


def evaluation_view(image: Image.Image, image_size: int) -> np.ndarray:
    """Short side resized to ``image_size``, then the centre: uint8 ``[image_size, image_size, 3]``.

    The same as CLIP's: bicubic with anti-aliasing in the image's own mode, sizes rounded down, crop offsets rounded to
    even, and only then RGB.
    """
    (width, height), (left, top) = _centre(image.width, image.height, image_size)
    if width * height <= _MOST_RESIZED:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        image = image.crop((left, top, left + image_size, top + image_size))
    else:  # the same but for rounding, without ever holding what is cropped away
        across, down = image.width / width, image.height / height
        box = (left * across, top * down, (left + image_size) * across, (top + image_size) * down)
        image = image.resize((image_size, image_size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(image.convert("RGB"))


def _centre(width: int, height: int, image_size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The size of an image whose short side is ``image_size``, and where its centre begins."""
    short = min(width, height)
    size = image_size * width // short, image_size * height // short
    return size, (round((size[0] - image_size) / 2), round((size[1] - image_size) / 2))


def _check_work(content: bytes, form: str, width: int, height: int, max_pixels: int) -> None:
    """Raises UnreadableError for an image that takes more memory or time than ``max_pixels`` are to take."""
    weight = _HEAVY.get(form, 1)
    if form == "BMP" and int.from_bytes(content[30:34], "little") in (1, 2):
        weight = _SLOW
    if width * height * weight > max_pixels or max(width, height) > _LONGEST:
        counted = f", which count {weight} times in {form}" if weight > 1 else ""
        raise UnreadableError(
            f"a bomb, or larger than allowed: {width} x {height} pixels{counted}; expected at most {max_pixels:,}, and "
            f"{_LONGEST:,} on a side"
        )
    if form == "JPEG":
        most = max(_SCANS, _SCANNED // (width * height))
        if image_files.jpeg_scan_count(content, most) > most:
            raise UnreadableError(f"a JPEG of {width} x {height} pixels in more than {most} scans, so not decoded")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey values of 16 bits, or of 32 that hold no more than 16, to their upper 8; other images as they are.

    Raises:
      UnreadableError: values that are no colours, or colours that cannot become RGB.
    """
    image.info.pop("transparency", None)  # a palette's, of which Pillow warns and which RGB has no place for
    if not image.mode.startswith(("I", "F")):
        if image.mode not in _MODES:
            raise UnreadableError(f"colours in {image.mode}, of which no RGB can be made")
        return image
    values = np.asarray(image)
    result = np.empty(values.shape, np.uint8)
    per_step = 257 if image.mode.startswith("I;16") or values.max() > 255 else 1
    rows = max(1, (1 << 20) // image.width)  # a few at once, since floats take four times as much
    for top in range(0, image.height, rows):
        part = np.nan_to_num(values[top : top + rows].astype(np.float32))
        result[top : top + rows] = np.clip(np.rint(part / per_step), 0, 255)
    return Image.fromarray(result)


def _random_box(width: int, height: int, crop_scale: tuple[float, float], rng: np.random.Generator) -> Box:
    """Ten tries to fit a box of a random share and aspect; then the centre, no narrower or wider than the bounds."""
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
