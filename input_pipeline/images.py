"""From image bytes to uint8 pixels: decoding, the training crop and the evaluation view."""

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 178_956_970  # Pillow's own limit for a decompression bomb, made an error at once
_MOST_RESIZED = 1 << 26  # pixels, of an image that is resized whole before its centre is cut out


class UnreadableImageError(Exception):
    """The bytes are missing, truncated, not an image, or a decompression bomb; the text says which."""


def open_image(image: Path | bytes) -> Image.Image:
    """Opens an image file, or its bytes, upright, in its own mode but for 16-bit ones, which become 8-bit.

    Raises:
      UnreadableImageError: whatever the reason; the caller replaces the record or names it.
    """
    try:
        content = image.read_bytes() if isinstance(image, Path) else image
        with Image.open(io.BytesIO(content)) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise UnreadableImageError(f"{opened.width} x {opened.height} pixels, a decompression bomb")
            opened.load()
            opened.info.pop("transparency", None)  # a palette's, of which Pillow warns and which RGB has no place for
            return _to_8_bit(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError as error:
        raise UnreadableImageError("not an image") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UnreadableImageError(str(error) or type(error).__name__) from error


def decode(image: Path | bytes) -> Image.Image:
    """Opens an image file, or its bytes, upright, as 8-bit RGB.

    Raises:
      UnreadableImageError: see `open_image`.
    """
    return open_image(image).convert("RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Grey values of 16 bits, or of 32 that hold no more than 16, to their upper 8."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image, np.float32)
    per_step = 257 if image.mode.startswith("I;16") or values.max() > 255 else 1
    return Image.fromarray(np.clip(np.rint(values / per_step), 0, 255).astype(np.uint8))


def training_view(
    image: Image.Image, image_size: int, crop_scale: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """A random crop of between 3:4 and 4:3, resized: uint8 ``[image_size, image_size, 3]``.

    Args:
      crop_scale: bounds of the crop's share of the image's area.
    """
    box = _random_box(image.width, image.height, crop_scale, rng)
    return np.asarray(image.resize((image_size, image_size), Image.Resampling.BICUBIC, box=box))


def evaluation_view(image: Image.Image, image_size: int) -> np.ndarray:
    """Short side resized to ``image_size``, then the centre: uint8 ``[image_size, image_size, 3]``.

    The same as CLIP's: bicubic with anti-aliasing in the image's own mode, sizes rounded down, crop offsets rounded to
    even, and only then RGB.
    """
    short = min(image.size)
    width, height = (image_size * side // short for side in image.size)
    left, top = round((width - image_size) / 2), round((height - image_size) / 2)
    if width * height <= _MOST_RESIZED:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        image = image.crop((left, top, left + image_size, top + image_size))
    else:  # the same but for rounding, without ever holding what is cropped away
        across, down = image.width / width, image.height / height
        box = (left * across, top * down, (left + image_size) * across, (top + image_size) * down)
        image = image.resize((image_size, image_size), Image.Resampling.BICUBIC, box=box)
    return np.asarray(image.convert("RGB"))


def _random_box(
    width: int, height: int, crop_scale: tuple[float, float], rng: np.random.Generator
) -> tuple[float, float, float, float]:
    aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    area = width * height * rng.uniform(*crop_scale)
    # Where a crop of this shape does not fit, the largest that does.
    crop_width, crop_height = min(math.sqrt(area * aspect), width), min(math.sqrt(area / aspect), height)
    left, top = rng.uniform(0, width - crop_width), rng.uniform(0, height - crop_height)
    return left, top, left + crop_width, top + crop_height
