"""Occlusion heat maps: where in an image each word of its caption is seen (Zeiler and Fergus, 2014, section 2).

A map shows how much occluding a part of the image reduces the similarity with a word. A word is represented by the
difference that it makes to the caption's embedding; a part is a square of a grid, covered with the image's mean colour.
The maps need only embeddings, so they work for transformers and ResNets alike.
"""

import html
from collections.abc import Sequence

import matplotlib
import numpy as np
from PIL import Image

from rankclip_jax.evaluation.encoder import Encoder
from rankclip_jax.monitoring import page

_GRID = 8
_WORDS = 8  # words of a caption that are drawn
_WIDTH = 112


def draw(encoder: Encoder, pairs: Sequence[tuple[np.ndarray, str]]) -> str:
    """Returns HTML with a heat map for each word of each caption.

    Args:
      encoder: the model.
      pairs: images, uint8 ``[H, W, 3]``, with their captions.
    """
    return "".join(card(pixels, caption, heat_of_words(encoder, pixels, caption)) for pixels, caption in pairs)


def card(pixels: np.ndarray, caption: str, heat: np.ndarray) -> str:
    """Returns HTML with a heat map for each word of a caption.

    Args:
      pixels: the image, uint8 ``[H, W, 3]``.
      caption: the image's caption.
      heat: of each word, ``[words, 8, 8]``; see `heat_of_words`.
    """
    heat = np.clip(heat, 0, None)
    heat = heat / heat.max(initial=1e-12)  # one scale per caption: words that matter little stay dark
    shown = "".join(
        f"<li><figure>{page.image(_warmed(pixels, part), f'{word}: where in the image', width=_WIDTH)}"
        f"<figcaption>{html.escape(word)}</figcaption></figure></li>"
        for word, part in list(zip(caption.split(), heat, strict=True))[:_WORDS]
    )
    return f'<div class="card wide"><p>{html.escape(caption)}</p><ul class="ranked images">{shown}</ul></div>'


def heat_of_words(encoder: Encoder, pixels: np.ndarray, caption: str) -> np.ndarray:
    """Returns how much occluding each square reduces the similarity with each word: ``[words, 8, 8]``.

    Args:
      encoder: the model.
      pixels: the image, uint8 ``[H, W, 3]``.
      caption: the image's caption.
    """
    words = caption.split()
    without = [" ".join(words[:number] + words[number + 1 :]) for number in range(len(words))]
    texts = encoder.encode_text([caption, *without])
    made_by_word = texts[0] - texts[1:]
    images = encoder.encode_image([pixels, *_covered(pixels)])
    return (made_by_word @ (images[0] - images[1:]).T).reshape(len(words), _GRID, _GRID)


def _covered(pixels: np.ndarray) -> list[np.ndarray]:
    """Returns copies of the image, each with one square of the grid occluded."""
    colour = pixels.mean(axis=(0, 1)).round().astype(np.uint8)
    down, across = (np.linspace(0, size, _GRID + 1).round().astype(int) for size in pixels.shape[:2])
    occluded_images = []
    for row in range(_GRID):
        for column in range(_GRID):
            occluded = pixels.copy()
            occluded[down[row] : down[row + 1], across[column] : across[column + 1]] = colour
            occluded_images.append(occluded)
    return occluded_images


def _warmed(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Returns the image in grey, overlaid with the heat, which is in [0, 1]."""
    height, width = pixels.shape[:2]
    share = np.asarray(Image.fromarray(heat.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC))
    share = np.clip(share, 0, 1)[..., None]
    grey = np.repeat(pixels.mean(axis=2, keepdims=True), 3, axis=2)
    colours = 255 * matplotlib.colormaps["inferno"](share[..., 0])[..., :3]
    return (grey * (1 - 0.75 * share) + colours * 0.75 * share).astype(np.uint8)
