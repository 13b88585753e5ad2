"""RandAugment and AutoAugment's ImageNet policy: random operations on 8-bit RGB images of any size.

Both papers share one list of operations. Here each is a function of an image and a level, the fraction of the
operation's range in AutoAugment's table 6: magnitude / 10, from 0 to 1, or from -1 to 1 for ranges symmetric about 0.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

_MAX_MAGNITUDE = 10
_MAX_DEGREES = 30
_MAX_SHEAR = 0.3
_MAX_SHIFT = 150 / 331  # of a side: the papers' 150 pixels, of the 331 that the policy was searched at
_MIN_ENHANCEMENT, _MAX_ENHANCEMENT = 0.1, 1.9
# Mid grey fills the uncovered area: it is near zero after normalization, while black would add a strong false edge.
_FILL = (128, 128, 128)


def rand_augment(image: Image.Image, rng: np.random.Generator, layers: int = 2, magnitude: float = 9) -> Image.Image:
    """Applies RandAugment: several uniformly drawn operations of one magnitude (Cubuk et al., 2020).

    Args:
      image: 8-bit RGB; the result has its size.
      rng: draws operations, signs and whether to apply them.
      layers: the number of operations, N in the paper.
      magnitude: in [0, 10], M in the paper; need not be an integer.

    Raises:
      ValueError: the magnitude is outside its range.
    """
    if not 0 <= magnitude <= _MAX_MAGNITUDE:
        raise ValueError(f"magnitude={magnitude}: expected 0 to {_MAX_MAGNITUDE} for RandAugment")
    for name in rng.choice(_RAND_AUGMENT, layers):
        image = _apply(image, name, magnitude, rng)
    return image


def auto_augment(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Applies a uniformly drawn sub-policy of AutoAugment's 25 for ImageNet (Cubuk et al., 2019, table 9).

    Args:
      image: 8-bit RGB; the result has its size.
      rng: draws operations, signs and whether to apply them.
    """
    for name, probability, magnitude in IMAGENET_POLICY[rng.integers(len(IMAGENET_POLICY))]:
        if rng.random() < probability:
            image = _apply(image, name, magnitude, rng)
    return image


def _apply(image: Image.Image, name: str, magnitude: float, rng: np.random.Generator) -> Image.Image:
    level = magnitude / _MAX_MAGNITUDE
    if name in SIGNED and rng.random() < 0.5:
        level = -level
    return OPERATIONS[name](image, level)


def _rotate(image: Image.Image, level: float) -> Image.Image:
    """Rotates about the centre, anticlockwise for a positive level."""
    return image.rotate(level * _MAX_DEGREES, fillcolor=_FILL)


def _shear_x(image: Image.Image, level: float) -> Image.Image:
    """Moves each row by a share of its distance from the top, to the right for a positive level."""
    return _affine(image, (1, -level * _MAX_SHEAR, 0, 0, 1, 0))


def _shear_y(image: Image.Image, level: float) -> Image.Image:
    """Moves each column by a share of its distance from the left, down for a positive level."""
    return _affine(image, (1, 0, 0, -level * _MAX_SHEAR, 1, 0))


def _translate_x(image: Image.Image, level: float) -> Image.Image:
    """Moves by whole pixels, to the right for a positive level."""
    return _affine(image, (1, 0, -round(level * _MAX_SHIFT * image.width), 0, 1, 0))


def _translate_y(image: Image.Image, level: float) -> Image.Image:
    """Moves by whole pixels, down for a positive level."""
    return _affine(image, (1, 0, 0, 0, 1, -round(level * _MAX_SHIFT * image.height)))


def _affine(image: Image.Image, source: tuple[float, ...]) -> Image.Image:
    """Applies an affine map (a, b, c, d, e, f): the pixel at (x, y) comes from (ax + by + c, dx + ey + f)."""
    return image.transform(image.size, Image.Transform.AFFINE, source, fillcolor=_FILL)


def _solarize(image: Image.Image, level: float) -> Image.Image:
    """Inverts values above a threshold, which falls from 256 (none) to 0 (all) with the level."""
    return ImageOps.solarize(image, round(256 * (1 - level)))


def _posterize(image: Image.Image, level: float) -> Image.Image:
    """Keeps the upper bits of each value: from all 8 down to 4."""
    return ImageOps.posterize(image, round(8 - 4 * level))


def _contrast(image: Image.Image, level: float) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(_enhancement(level))


def _colour(image: Image.Image, level: float) -> Image.Image:
    return ImageEnhance.Color(image).enhance(_enhancement(level))


def _brightness(image: Image.Image, level: float) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(_enhancement(level))


def _sharpness(image: Image.Image, level: float) -> Image.Image:
    return ImageEnhance.Sharpness(image).enhance(_enhancement(level))


def _enhancement(level: float) -> float:
    """Returns the papers' enhancement factor; at the middle magnitude it is 1, which leaves the image unchanged."""
    return _MIN_ENHANCEMENT + level * (_MAX_ENHANCEMENT - _MIN_ENHANCEMENT)


OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "identity": lambda image, _: image,
    "auto_contrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "invert": lambda image, _: ImageOps.invert(image),
    "rotate": _rotate,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
    "solarize": _solarize,
    "posterize": _posterize,
    "contrast": _contrast,
    "colour": _colour,
    "brightness": _brightness,
    "sharpness": _sharpness,
}
SIGNED = frozenset({"rotate", "shear_x", "shear_y", "translate_x", "translate_y"})
_RAND_AUGMENT = [name for name in OPERATIONS if name != "invert"]  # the 14 of its paper

# (operation, probability, magnitude) twice in each; auto_contrast, equalize and invert have no magnitude, given as 0.
_Step = tuple[str, float, int]
IMAGENET_POLICY: tuple[tuple[_Step, _Step], ...] = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("auto_contrast", 0.6, 0)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("colour", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
    (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("colour", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("colour", 1.0, 2)),
    (("colour", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 0)),
    (("colour", 0.4, 0), ("equalize", 0.6, 0)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("auto_contrast", 0.6, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("colour", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
)
