"""A second view of a pair, for objectives that contrast a thing with an altered self."""

import numpy as np
from PIL import Image, ImageEnhance

from input_pipeline import images

VIEW_CROP_SCALE = (0.5, 1.0)
_JITTER = 0.4  # brightness, contrast and saturation change by up to this share
_WORD_SHARE = 0.1  # of a text's words are touched by one edit of each kind, at least one word


def augment_image(image: Image.Image, image_size: int, rng: np.random.Generator) -> np.ndarray:
    """A tighter random crop with its colours shifted: uint8 ``[image_size, image_size, 3]``."""
    view = Image.fromarray(images.training_view(image, image_size, VIEW_CROP_SCALE, rng))
    for enhancement in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        view = enhancement(view).enhance(rng.uniform(1 - _JITTER, 1 + _JITTER))
    return np.asarray(view)


def augment_text(text: str, rng: np.random.Generator) -> str:
    """The text after one kind of edit, drawn at random: words swapped, deleted or repeated elsewhere.

    The edits of Wei and Zou (2019) that need no dictionary.
    """
    words = text.split()
    if len(words) < 2:
        return text
    edit = rng.choice(["swap", "delete", "insert"])
    for _ in range(max(1, round(_WORD_SHARE * len(words)))):
        first, second = rng.choice(len(words), 2, replace=False)
        if edit == "swap":
            words[first], words[second] = words[second], words[first]
        elif edit == "insert":
            words.insert(first, words[second])
        elif len(words) > 2:
            del words[first]
    return " ".join(words)
