"""From image files, or their bytes, to pixels: opening, the training crop and the evaluation view.

A JPEG is decoded at a half, a quarter or an eighth where that leaves one and a half times the pixels asked for.
Training crops are then resized by OpenCV, which takes a fifth of Pillow's time; preparation, which is done once, uses
Pillow. The evaluation view decodes whole and resizes as open_clip does.
"""

import io
import math
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import UnreadableError

MAX_PIXELS = 178_956_970  # Pillow's own limit for a decompression bomb, made an error at once
_MOST_RESIZED = 1 << 26  # pixels, of an image that is resized whole before its centre is cut out
_SPARE = 1.5  # a JPEG is decoded with at least so many times the pixels asked for, per side, where it has them
_MOST_SMOOTHED = 3.1  # reductions up to which three weights are smoothing enough
_CROP_TRIES = 10
_NARROWEST, _WIDEST = 3 / 4, 4 / 3  # width to height of a random crop

cv2.setNumThreads(1)  # rows of a batch are resized side by side already

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the image


class Picture(Protocol):
    """An image that views can be cut from."""

    width: int
    height: int

    def view(self, box: Box, size: tuple[int, int]) -> np.ndarray:
        """The box resized to ``size``, width and height: uint8 ``[h, w, 3]``, bicubic with anti-aliasing."""
        ...


class _Decoded:
    """An image in memory."""

    def __init__(self, image: Image.Image) -> None:
        self._image = image
        self.width, self.height = image.size

    def view(self, box: Box, size: tuple[int, int]) -> np.ndarray:
        return np.asarray(self._image.resize(size, Image.Resampling.BICUBIC, box=box))


class _Jpeg:
    """A JPEG of which only the header is read; each view decodes it at the scale that it needs."""

    def __init__(self, content: bytes, width: int, height: int) -> None:
        self._content = content
        self.width, self.height = width, height

    def view(self, box: Box, size: tuple[int, int]) -> np.ndarray:
        """The box is rounded to whole pixels of what is decoded."""
        left, top, right, bottom = box
        reduction = min((right - left) / size[0], (bottom - top) / size[1])
        pixels, scale = self.decode(reduction / _SPARE)
        if pixels is None:
            return _Decoded(decode(self._content)).view(box, size)
        # A scaled image is rounded up to whole pixels, the box is not.
        left, top, right, bottom = (round(edge * scale) for edge in box)
        right, bottom = min(max(right, left + 1), pixels.shape[1]), min(max(bottom, top + 1), pixels.shape[0])
        left, top = min(left, right - 1), min(top, bottom - 1)
        ratios = (right - left) / size[0], (bottom - top) / size[1]
        if max(ratios) > _MOST_SMOOTHED:
            return _Decoded(Image.fromarray(pixels)).view((left, top, right, bottom), size)
        return _resize(pixels[top:bottom, left:right], size, ratios)

    def decode(self, reduction: float) -> tuple[np.ndarray | None, float]:
        """uint8 ``[h, w, 3]`` at the smallest scale of at least ``1 / reduction``; None where the file is damaged."""
        scale = next((1 / part for part in (8, 4, 2) if part <= reduction), 1.0)
        height, width = math.ceil(self.height * scale), math.ceil(self.width * scale)
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
      UnreadableError: there is no such file, or it cannot be read.
    """
    try:
        return image.read_bytes() if isinstance(image, Path) else image
    except (OSError, ValueError) as error:
        raise UnreadableError(str(error)) from error


def in_memory(pixels: np.ndarray) -> Picture:
    """A picture of uint8 pixels ``[H, W, 3]``."""
    return _Decoded(Image.fromarray(pixels))


def open_picture(image: Path | bytes) -> Picture:
    """Opens an image to cut training views from; a JPEG is decoded when they are.

    Raises:
      UnreadableError: whatever the reason; the caller replaces the record. Cutting a view may raise it too.
    """
    content = read(image)
    if content[:2] == b"\xff\xd8" and b"Exif\0\0" not in content[:65_536]:
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(content)
        except ValueError:
            return _Decoded(decode(content))
        if colours in ("YCbCr", "Gray", "RGB") and min(width, height) > 0:
            _check_size(width, height)
            return _Jpeg(content, width, height)
    return _Decoded(decode(content))


def open_image(image: Path | bytes) -> Image.Image:
    """Opens an image file, or its bytes, upright, in its own mode but for 16-bit ones, which become 8-bit.

    Of an animation it is the first picture.

    Raises:
      UnreadableError: whatever the reason; the caller replaces the record or names it.
    """
    content = read(image)
    try:
        with Image.open(io.BytesIO(content)) as opened:
            _check_size(opened.width, opened.height)
            opened.load()
            opened.info.pop("transparency", None)  # a palette's, of which Pillow warns and which RGB has no place for
            return _to_8_bit(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError as error:
        raise UnreadableError("not an image") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableError(str(error)) from error
    except (OSError, ValueError, SyntaxError, IndexError, EOFError, TypeError, OverflowError, RuntimeError) as error:
        raise UnreadableError(str(error) or type(error).__name__) from error  # Pillow's plugins raise what they meet


def decode(image: Path | bytes) -> Image.Image:
    """Opens an image file, or its bytes, upright, as 8-bit RGB.

    Raises:
      UnreadableError: see `open_image`.
    """
    return open_image(image).convert("RGB")


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
    """The square in the centre that `evaluation_view` shows, decoded faster: uint8 ``[image_size, image_size, 3]``."""
    (width, height), (left, top) = _centre(picture.width, picture.height, image_size)
    across, down = picture.width / width, picture.height / height
    box = (left * across, top * down, (left + image_size) * across, (top + image_size) * down)
    return picture.view(box, (image_size, image_size))


def shrink(content: bytes, short_side: int, quality: int) -> bytes:
    """A JPEG of the image with a short side of ``short_side``; the same bytes where it has no more already.

    Raises:
      UnreadableError: it cannot be decoded.
    """
    picture = open_picture(content)
    short = min(picture.width, picture.height)
    reduction = short / short_side
    size = (round(picture.width / reduction), round(picture.height / reduction))
    pixels = picture.decode(reduction / _SPARE)[0] if isinstance(picture, _Jpeg) else None
    image = decode(content) if pixels is None else Image.fromarray(pixels)
    if reduction <= 1:
        return content
    file = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=quality)
    return file.getvalue()


def check(content: bytes) -> tuple[int, int]:
    """Width and height by the header, and a look at the end, without decoding a JPEG that has one.

    Raises:
      UnreadableError: it is no image, or is truncated.
    """
    picture = open_picture(content)
    if isinstance(picture, _Jpeg) and b"\xff\xd9" not in content[-1024:]:
        decode(content)  # some have more after their end mark; decoding tells
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


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnreadableError(f"{width} x {height} pixels, a decompression bomb")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Grey values of 16 bits, or of 32 that hold no more than 16, to their upper 8."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image, np.float32)
    per_step = 257 if image.mode.startswith("I;16") or values.max() > 255 else 1
    return Image.fromarray(np.clip(np.rint(values / per_step), 0, 255).astype(np.uint8))


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
