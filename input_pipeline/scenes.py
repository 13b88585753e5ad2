"""Built-in synthetic data: captioned scenes drawn on the fly, with many-to-many matches of images and captions.

A scene has one value of each attribute below. Its caption follows one of several templates and mentions a random subset
of the attributes, so images and captions match by degrees, and the true degree is known.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from .errors import UserError
from .setting import COUNT, COUNT_OR_ZERO, setting
from .source import Classes, DataSource, GroundTruth

ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": ("circle", "square", "triangle", "cross", "ring", "crescent", "bar", "pillar"),
    "colour": ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "white"),
    "size": ("small", "large"),
    "place": ("left", "right", "top", "bottom", "centre"),
    "background": ("black", "grey", "brown", "navy"),
    "texture": ("plain", "striped", "dotted"),
}
SHAPE, COLOUR, SIZE, PLACE, BACKGROUND, TEXTURE = range(len(ATTRIBUTES))
UNMENTIONED = -1

CLASS_NAMES = tuple(f"{colour} {shape}" for colour in ATTRIBUTES["colour"] for shape in ATTRIBUTES["shape"])
CLASS_TEMPLATES = ("a {}.", "there is a {}.", "a picture of a {}.", "a drawing with a {}.")

_RGB = {
    "red": (220, 40, 40), "orange": (245, 140, 30), "yellow": (240, 225, 50), "green": (50, 190, 70),
    "cyan": (70, 220, 220), "blue": (60, 100, 240), "purple": (165, 70, 205), "white": (245, 245, 245),
    "black": (12, 12, 12), "grey": (118, 118, 118), "brown": (98, 62, 34), "navy": (18, 22, 84),
}  # fmt: skip
_CENTRES = {"left": (-0.36, 0.0), "right": (0.36, 0.0), "top": (0.0, -0.36), "bottom": (0.0, 0.36), "centre": (0, 0)}
_PLACES = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom",
           "centre": "in the centre"}  # fmt: skip
_TEMPLATES = (
    "{thing}{place}{background}.",
    "there is {thing}{place}{background}.",
    "a picture of {thing}{place}{background}.",
    "a drawing with {thing}{place}{background}.",
)
_MENTION_PROBABILITIES = (0.9, 0.9, 0.3, 0.3, 0.3, 0.3)  # shape and colour more often than the rest
_HELD_OUT_SHARE = 8  # one of this many combinations is held out for validation


@dataclasses.dataclass(frozen=True)
class SceneSource(DataSource):
    """Scenes drawn on the fly."""

    expects = "no path"

    train_examples: int = setting(65_536, "scenes: number of training scenes per epoch", COUNT)
    validation_examples: int = setting(1024, "scenes: number of validation scenes; 0: none", COUNT_OR_ZERO)

    def open(self, path: str, split: str, *, image_size: int, seed: int) -> "Scenes":
        """Opens the scenes of a split; raises UserError for a path."""
        if path:
            raise UserError(
                f"config.data.{split}: config.data.source is scenes, which reads no files; found {path!r}. "
                "Use --config.data.source=csv or --config.data.source=array_record."
            )
        return Scenes(split, self.train_examples if split == "train" else self.validation_examples, image_size, seed)

    def has_validation(self, path: str) -> bool:
        """Whether there are validation scenes."""
        del path
        return self.validation_examples > 0


@dataclasses.dataclass(frozen=True)
class Scenes:
    """A split of the scenes; item ``i`` is a pure function of (seed, split, i).

    Args:
      split: ``"train"``, or ``"validation"`` with only combinations of attributes that training never shows.
      size: number of scenes.
      image_size: side of the square images in pixels.
    """

    split: str
    size: int
    image_size: int
    seed: int = 0

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict:
        """Returns ``{"image": uint8 [image_size, image_size, 3], "text": str}``."""
        attributes, mentioned, rng = self._draw(index)
        return {"image": _draw_image(attributes, self.image_size, rng), "text": _write_caption(mentioned, rng)}

    @property
    def truth(self) -> GroundTruth:
        """The ground truth: the class of each image, and the relevance of every image to every caption."""
        prompts = [[template.format(name) for template in CLASS_TEMPLATES] for name in CLASS_NAMES]
        return GroundTruth(classes=Classes(CLASS_NAMES, prompts, self.class_labels), relevance=self.relevance)

    def image_attributes(self, indices: Sequence[int] | None = None) -> np.ndarray:
        """Returns the attributes of the given images, or of all: int ``[n, 6]``, indices into `ATTRIBUTES`' values."""
        return np.stack([self._draw(index)[0] for index in self._numbers(indices)])

    def caption_attributes(self, indices: Sequence[int] | None = None) -> np.ndarray:
        """Returns the attributes in the given captions, or in all: int ``[n, 6]``, `UNMENTIONED` for omitted ones."""
        return np.stack([self._draw(index)[1] for index in self._numbers(indices)])

    def class_labels(self, indices: Sequence[int] | None = None) -> np.ndarray:
        """Returns the class of the given images, or of all: int ``[n]``, indices into `CLASS_NAMES`."""
        attributes = self.image_attributes(indices)
        return attributes[:, COLOUR] * len(ATTRIBUTES["shape"]) + attributes[:, SHAPE]

    def relevance(self, indices: Sequence[int] | None = None) -> np.ndarray:
        """Returns the true relevance of each given image (row) to each given caption (column): float ``[n, n]``."""
        return relevance(self.image_attributes(indices), self.caption_attributes(indices))

    def _numbers(self, indices: Sequence[int] | None) -> Sequence[int]:
        return range(self.size) if indices is None else indices

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
        if not 0 <= index < self.size:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, self.split == "train", index))
        pool = combinations(self.split)
        attributes = pool[rng.integers(len(pool))]
        mentions = rng.random(len(ATTRIBUTES)) < _MENTION_PROBABILITIES
        mentions[rng.integers(len(ATTRIBUTES))] = True
        return attributes, np.where(mentions, attributes, UNMENTIONED), rng


@functools.cache
def combinations(split: str) -> np.ndarray:
    """Returns all combinations of attributes of a split: int ``[n, 6]``; the splits are disjoint."""
    grid = np.indices([len(values) for values in ATTRIBUTES.values()]).reshape(len(ATTRIBUTES), -1).T
    shuffled = np.random.default_rng(0).permutation(grid)
    held_out = len(grid) // _HELD_OUT_SHARE
    return {"train": shuffled[held_out:], "validation": shuffled[:held_out]}[split]


def relevance(image_attributes: np.ndarray, caption_attributes: np.ndarray) -> np.ndarray:
    """Returns the fraction of a caption's attributes that an image has.

    Args:
      image_attributes: int ``[n, 6]``.
      caption_attributes: int ``[m, 6]``, `UNMENTIONED` for attributes that a caption omits.

    Returns:
      float ``[n, m]`` in [0, 1]; 1 if everything in the caption is true of the image.
    """
    shared = (image_attributes[:, None] == caption_attributes[None]).sum(-1)
    return shared / (caption_attributes != UNMENTIONED).sum(-1)


def _write_caption(mentioned: np.ndarray, rng: np.random.Generator) -> str:
    words = [
        "" if value == UNMENTIONED else values[value]
        for values, value in zip(ATTRIBUTES.values(), mentioned, strict=True)
    ]
    adjectives = " ".join(word for word in (words[SIZE], words[TEXTURE], words[COLOUR]) if word)
    thing = f"{adjectives} {words[SHAPE] or 'shape'}".strip()
    thing = f"{'an' if thing[0] in 'aeiou' else 'a'} {thing}"
    place = f" {_PLACES[words[PLACE]]}" if words[PLACE] else ""
    background = f" on a {words[BACKGROUND]} background" if words[BACKGROUND] else ""
    template = _TEMPLATES[rng.integers(len(_TEMPLATES))]
    return template.format(thing=thing, place=place, background=background)


def _draw_image(attributes: np.ndarray, image_size: int, rng: np.random.Generator) -> np.ndarray:
    shape, colour, size, place, background, texture = (
        values[value] for values, value in zip(ATTRIBUTES.values(), attributes, strict=True)
    )
    axis = (np.arange(image_size, dtype=np.float32) + 0.5) * (2 / image_size) - 1
    jitter = rng.uniform(-0.04, 0.04, 2)
    x = axis[None, :] - (_CENTRES[place][0] + jitter[0])
    y = axis[:, None] - (_CENTRES[place][1] + jitter[1])
    radius = (0.42 if size == "small" else 0.62) * rng.uniform(0.95, 1.05)
    # Anti-aliasing: a pixel is covered in proportion to its distance from the edge.
    coverage = np.clip(0.5 - _distance(shape, x, y, radius) * (image_size / 2), 0, 1)
    shade = _texture(texture, x, y, radius)
    paint = np.asarray(_RGB[colour], np.float32) * rng.uniform(0.9, 1.05)
    ground = np.asarray(_RGB[background], np.float32) * rng.uniform(0.9, 1.1)
    image = ground + (coverage * shade)[..., None] * (paint - ground)
    image += rng.normal(0, 4, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def _distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Returns the signed distance from the shape's edge, negative inside; nearly exact near the edge."""
    match shape:
        case "circle":
            return np.hypot(x, y) - 0.95 * radius
        case "square":
            return np.maximum(np.abs(x), np.abs(y)) - radius
        case "triangle":
            return np.maximum(0.866 * np.abs(x) - 0.5 * y - 0.5 * radius, y - 0.5 * radius)
        case "cross":
            long, short = np.maximum(np.abs(x), np.abs(y)), np.minimum(np.abs(x), np.abs(y))
            return np.maximum(long - radius, short - 0.3 * radius)
        case "ring":
            return np.abs(np.hypot(x, y) - 0.8 * radius) - 0.22 * radius
        case "crescent":
            return np.maximum(np.hypot(x, y) - radius, 0.8 * radius - np.hypot(x - 0.45 * radius, y))
        case "bar":
            return np.maximum(np.abs(x) - radius, np.abs(y) - 0.35 * radius)
        case "pillar":
            return np.maximum(np.abs(y) - radius, np.abs(x) - 0.35 * radius)
        case _:
            raise ValueError(f"unknown shape: {shape}")


def _texture(texture: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray | float:
    """Returns the opacity of the paint, in [0, 1]; marks have a fixed size, so that small shapes have some too."""
    match texture:
        case "plain":
            return 1.0
        case "striped":
            return 0.85 + 0.15 * np.sign(np.sin((x + y) * 22))
        case "dotted":
            return 1 - 0.35 * ((np.sin(x * 20) * np.sin(y * 20)) > 0.35)
        case _:
            raise ValueError(f"unknown texture: {texture}")
