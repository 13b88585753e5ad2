"""The report's section about a model: retrieval galleries, heat maps, similarities and the geometry of embeddings."""

import html

import matplotlib
import numpy as np

from rankclip_jax.evaluation.embedder import Embedded
from rankclip_jax.evaluation.encoder import Encoder
from rankclip_jax.evaluation.zero_shot import confidences, in_bins
from rankclip_jax.input_pipeline.images import MOST_PIXELS
from rankclip_jax.input_pipeline.loader import evaluation_pixels
from rankclip_jax.input_pipeline.source import Source, captions
from rankclip_jax.monitoring import charts, heat_maps, page

PAIRS = 256  # pairs of the validation set that the section uses
_SHOWN, _RANKED, _WARMED, _CAPTIONS = 6, 5, 3, 3
_MATRIX = 64
_PIXELS = 160


def render(source: Source, embedded: Embedded, encoder: Encoder) -> str:
    """Renders HTML about a model's embeddings of the first pairs of a dataset.

    Args:
      source: the dataset.
      embedded: the model's embeddings of its first pairs.
      encoder: the model.
    """
    images, texts = embedded.image, embedded.first_text
    own = [captions(source[int(number)]) for number in embedded.index]
    words = [each[0] for each in own]
    similarity = images @ texts.T
    warmed = [(_pixels(source, embedded, row), words[row]) for row in range(min(_WARMED, len(words)))]
    return (
        '<h3>Images, and the captions nearest to them</h3><div class="cards">'
        + "".join(_image_card(source, embedded, own, similarity, row) for row in range(min(_SHOWN, len(words))))
        + '</div><h3>Captions, and the images nearest to them</h3><div class="cards">'
        + "".join(_text_card(source, embedded, own, similarity, row) for row in range(min(_SHOWN, len(words))))
        + '</div><h3>Where each word is seen</h3><div class="cards">'
        + heat_maps.draw(encoder, warmed)
        + '</div><h3>Similarities</h3><div class="charts">'
        + matrix(similarity[:_MATRIX, :_MATRIX], f"{min(_MATRIX, len(similarity))} images (rows) by their captions")
        + _densities(similarity)
        + _map(images, texts)
        + _reliability(images, texts, words, encoder.logit_scale)
        + "</div>"
    )


def _image_card(source: Source, embedded: Embedded, own: list[list[str]], similarity: np.ndarray, row: int) -> str:
    """Renders an image with its own captions and the nearest captions, without duplicates."""
    order = np.argsort(-similarity[row], kind="stable")
    ranked = list(dict.fromkeys(own[column][0] for column in order))[:_RANKED]
    items = "".join(f'<li class="{_mark(text in own[row])}">{html.escape(text)}</li>' for text in ranked)
    shown = page.image(_pixels(source, embedded, row), own[row][0], width=_PIXELS)
    return f'<div class="card">{shown}{_captions(own[row])}<ol class="ranked">{items}</ol></div>'


def _captions(texts: list[str]) -> str:
    """Renders the first few captions of an image, and the number of the others."""
    more = [f"and {len(texts) - _CAPTIONS} more"] if len(texts) > _CAPTIONS else []
    return "".join(f"<p>{html.escape(text)}</p>" for text in texts[:_CAPTIONS] + more)


def _text_card(source: Source, embedded: Embedded, own: list[list[str]], similarity: np.ndarray, column: int) -> str:
    """Renders a caption with the nearest images; an image is correct if any of its captions is this one."""
    ranked, text = np.argsort(-similarity[:, column], kind="stable")[:_RANKED], own[column][0]
    items = "".join(
        f'<li><figure class="{_mark(text in own[row])}">'
        f"{page.image(_pixels(source, embedded, int(row)), own[row][0], width=_PIXELS // 2)}</figure></li>"
        for row in ranked
    )
    return f'<div class="card"><p>{html.escape(text)}</p><ol class="ranked images">{items}</ol></div>'


def _mark(right: bool) -> str:
    return "right" if right else "wrong"


def _pixels(source: Source, embedded: Embedded, row: int) -> np.ndarray:
    """Returns the pixels of an embedded image, whose size was checked when it was embedded."""
    image = source[int(embedded.index[row])]["image"]
    return evaluation_pixels(image, getattr(source, "image_size", _PIXELS), MOST_PIXELS)


def matrix(values: np.ndarray, described: str) -> str:
    """Returns a figure of a matrix ``[n, m]``, with the range of its values."""
    low, high = float(values.min()), float(values.max())
    shares = (values - low) / max(high - low, 1e-9)
    pixels = (255 * matplotlib.colormaps["viridis"](shares)[..., :3]).astype(np.uint8)
    title = f"{described}: {low:.2f} dark to {high:.2f} bright"
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{page.image(pixels, title, 'matrix')}</figure>"


def _densities(similarity: np.ndarray) -> str:
    if len(similarity) < 2:
        return ""
    own = np.eye(len(similarity), dtype=bool)
    return charts.densities(
        "Similarity of images and captions",
        {"same pair": similarity[own], "different pairs": similarity[~own]},
        "cosine similarity",
    )


def _reliability(images: np.ndarray, texts: np.ndarray, words: list[str], scale: float) -> str:
    """Renders a reliability diagram of the most probable caption; duplicate captions are merged."""
    different = list(dict.fromkeys(words))
    candidates = texts[[words.index(text) for text in different]]
    likeliest = (images @ candidates.T).argmax(axis=1)
    hits = np.asarray([different[index] == text for index, text in zip(likeliest, words, strict=True)], float)
    confidence, accuracy, _ = in_bins(confidences(images, candidates, scale), hits)
    title = f"Reliability: how often the likeliest of {len(different)} captions is right"
    series = {"this model": list(zip(confidence, accuracy, strict=True)), "as often as it says": [(0, 0), (1, 1)]}
    return charts.lines(title, series, "probability that the model gives it")


def _map(images: np.ndarray, texts: np.ndarray) -> str:
    """Renders the embeddings in their first two principal components, which include the modality gap."""
    if len(images) < 2:
        return ""
    both = np.concatenate([images, texts]).astype(np.float64)
    centred = both - both.mean(axis=0)
    projected = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    gap = np.linalg.norm(images.mean(axis=0) - texts.mean(axis=0))
    title = f"Embeddings of pairs in their first two principal components; modality gap {gap:.3f}"
    return charts.pairs(title, projected[: len(images)], projected[len(images) :], ("images", "captions"))
