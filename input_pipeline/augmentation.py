"""Augmentation of training pairs: crop, flip, color jitter, policies, and an optional stronger second view."""

import dataclasses
import functools
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from .auto_augment import auto_augment, rand_augment
from .errors import UserError
from .images import Picture, centre_view, random_view
from .setting import FRACTION, Choice, Each, Range, Settings, setting

_WORD_SHARE = 0.1  # fraction of a text's words that an edit changes, at least one word


@dataclasses.dataclass(frozen=True)
class Augmentation(Settings):
    """The augmentation of training images."""

    section = "data"

    crop_scale: tuple[float, float] = setting(
        (0.9, 1.0),
        "random crop: minimum and maximum fraction of the image's area (open_clip's default)",
        Each(*[Range(0, 1, exclude_low=True)] * 2),
    )
    flip: float = setting(0.0, "probability of a horizontal flip", FRACTION)
    color_jitter: tuple[float, float, float, float] = setting(
        (0.0, 0.0, 0.0, 0.0),
        "maximum change of brightness, contrast, saturation, and of hue as a fraction of the color wheel",
        Each(FRACTION, FRACTION, FRACTION, Range(0, 0.5)),
    )
    auto_augment: str = setting(
        "",
        "augmentation policy: `rand_augment` or `auto_augment`; empty: none",
        Choice(("", "rand_augment", "auto_augment")),
    )
    crop: str = setting(
        "random",
        "`random`: open_clip's training crop; `center`: CLIP's evaluation view, with which the release trains",
        Choice(("random", "center")),
    )

    def __post_init__(self) -> None:
        low, high = self.crop_scale
        if low > high:
            raise UserError(f"config.data.crop_scale: expected the smaller fraction first; found {self.crop_scale}.")

    def __call__(self, picture: Picture, image_size: int, rng: np.random.Generator) -> np.ndarray:
        """Returns a view, uint8 ``[image_size, image_size, 3]``; disabled steps draw nothing from ``rng``."""
        if self.crop == "center":
            view = centre_view(picture, image_size)
        else:
            view = random_view(picture, image_size, self.crop_scale, rng)
        if self.flip and rng.random() < self.flip:
            view = view[:, ::-1]
        if not any(self.color_jitter) and not self.auto_augment:
            return view
        image = Image.fromarray(view)
        if any(self.color_jitter):
            image = _shift_colours(image, self.color_jitter, rng)
        if self.auto_augment:
            image = (rand_augment if self.auto_augment == "rand_augment" else auto_augment)(image, rng)
        return np.asarray(image)


# The second view of a pair: a tighter crop with color jitter (Chen et al., 2020, at half its strength).
SECOND_VIEW = Augmentation(crop_scale=(0.5, 1.0), flip=0.5, color_jitter=(0.4, 0.4, 0.4, 0.1))


def augment_text(text: str, rng: np.random.Generator) -> str:
    """Returns the text after one random kind of edit: words replaced by synonyms, inserted, swapped or deleted.

    The four edits of Wei and Zou (2019); an insertion is a synonym of one of the text's words, or that word again.
    """
    words = text.split()
    if len(words) < 2:
        return text
    edit = rng.choice(["replace", "insert", "swap", "delete"])
    for _ in range(max(1, round(_WORD_SHARE * len(words)))):
        first, second = rng.choice(len(words), 2, replace=False)
        if edit == "replace":
            first = _with_synonym(words, first)
            words[first] = _synonym(words[first], rng)
        elif edit == "insert":
            words.insert(first, _synonym(words[second], rng))
        elif edit == "swap":
            words[first], words[second] = words[second], words[first]
        elif len(words) > 2:
            del words[first]
    return " ".join(words)


def _shift_colours(
    image: Image.Image, strengths: tuple[float, float, float, float], rng: np.random.Generator
) -> Image.Image:
    *shares, hue = strengths
    kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for kind, share in zip(kinds, shares, strict=True):
        if share:
            image = kind(image).enhance(rng.uniform(max(0, 1 - share), 1 + share))
    if hue:
        circle = np.array(image.convert("HSV"))
        circle[..., 0] += np.uint8(round(rng.uniform(-hue, hue) * 255) % 256)  # wraps around, as hues do
        image = Image.fromarray(circle, "HSV").convert("RGB")
    return image


def _with_synonym(words: list[str], start: int) -> int:
    """Returns the first position from ``start``, cyclically, whose word has a synonym; ``start`` if none has."""
    positions = [(start + offset) % len(words) for offset in range(len(words))]
    return next((position for position in positions if _bare(words[position]) in _synonyms()), start)


def _synonym(word: str, rng: np.random.Generator) -> str:
    """Returns a synonym with the same punctuation, or the word itself if it has none."""
    bare = _bare(word)
    synonyms = _synonyms().get(bare)
    if not synonyms:
        return word
    synonym = str(rng.choice(synonyms))
    return word.replace(word.strip(".,;:!?\"'()"), synonym.capitalize() if word[:1].isupper() else synonym)


def _bare(word: str) -> str:
    return word.strip(".,;:!?\"'()").lower()


@functools.cache
def _synonyms() -> dict[str, list[str]]:
    """Returns the synonyms of each word: the other words of its line in ``synonyms.txt``."""
    lines = (Path(__file__).parent / "synonyms.txt").read_text(encoding="ascii").splitlines()
    groups = [line.split() for line in lines]
    return {word: [other for other in group if other != word] for group in groups for word in group}
