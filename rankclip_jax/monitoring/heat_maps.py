"""Where in an image each word of its caption is seen: what covering a part takes from the similarity with the word.

A word is the difference that it makes to the caption's embedding; a part is a square of a grid, covered with the
image's mean colour. So the maps need nothing of a tower but its embeddings, and serve transformers and ResNets alike.
Source: occlusion, Zeiler and Fergus 2014, section 2.
"""

import html
from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image

from rankclip_jax.evaluation.encoder import Encoder
from rankclip_jax.monitoring import page

_GRID = 8
_WORDS = 8  # of a caption, that are drawn
_WIDTH = 112


def draw(encoder: Encoder, pairs: Sequence[tuple[np.ndarray, str]]) -> str:
    """HTML with a picture for each word of each caption.

    Args:
      encoder: the model.
      pairs: images, uint8 ``[H, W, 3]``, with their captions.
    """
    cards = []
    for pixels, caption in pairs:
        heats = np.clip(heat_of_words(encoder, pixels, caption), 0, None)
        heats /= heats.max(initial=1e-12)  # one scale for the caption: words that matter little stay dark
        shown = "".join(
            f"<li><figure>{page.image(_warmed(pixels, heat), f'{word}: where in the image', width=_WIDTH)}"
            f"<figcaption>{html.escape(word)}</figcaption></figure></li>"
            for word, heat in list(zip(caption.split(), heats, strict=True))[:_WORDS]
        )
        title = html.escape(caption)
        cards.append(f'<div class="card wide"><p>{title}</p><ul class="ranked images">{shown}</ul></div>')
    return "".join(cards)


def heat_of_words(encoder: Encoder, pixels: np.ndarray, caption: str) -> np.ndarray:
    """How much of each word covering each square takes away: ``[words, 8, 8]``, rows from the top.

    Args:
      encoder: the model.
      pixels: uint8 ``[H, W, 3]``.
      caption: the image's.
    """
    words = caption.split()
    without = [" ".join(words[:number] + words[number + 1 :]) for number in range(len(words))]
    texts = encoder.encode_text([caption, *without])
    made_by_word = texts[0] - texts[1:]
    images = encoder.encode_image([pixels, *_covered(pixels)])
    return (made_by_word @ (images[0] - images[1:]).T).reshape(len(words), _GRID, _GRID)


def _covered(pixels: np.ndarray) -> list[np.ndarray]:
    """The image without each square of the grid."""
    colour = pixels.mean(axis=(0, 1)).round().astype(np.uint8)
    down, across = (np.linspace(0, size, _GRID + 1).round().astype(int) for size in pixels.shape[:2])
    found = []
    for row in range(_GRID):
        for column in range(_GRID):
            one = pixels.copy()
            one[down[row] : down[row + 1], across[column] : across[column + 1]] = colour
            found.append(one)
    return found


def _warmed(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The image in grey, and over it the heat, from 0 to 1."""
    height, width = pixels.shape[:2]
    share = np.asarray(Image.fromarray(heat.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC))
    share = np.clip(share, 0, 1)[..., None]
    grey = np.repeat(pixels.mean(axis=2, keepdims=True), 3, axis=2)
    colours = 255 * matplotlib.colormaps["inferno"](share[..., 0])[..., :3]
    return (grey * (1 - 0.75 * share) + colours * 0.75 * share).astype(np.uint8)
