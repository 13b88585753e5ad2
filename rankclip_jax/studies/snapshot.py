"""A snapshot of a finished model for the page: where it sees the words of some captions, and similarities of pairs."""

import dataclasses
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from rankclip_jax import input_pipeline
from rankclip_jax.evaluation.encoder import Encoder
from rankclip_jax.input_pipeline.images import MOST_PIXELS
from rankclip_jax.input_pipeline.loader import evaluation_pixels
from rankclip_jax.input_pipeline.source import captions
from rankclip_jax.interop import loading
from rankclip_jax.models.presets import preset_of
from rankclip_jax.monitoring.heat_maps import heat_of_words

_IMAGES, _PAIRS, _SEARCHED = 3, 24, 200
_WORDS = range(2, 5)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """What a model makes of a few pairs of the validation data.

    Args:
      captions: of the images.
      pixels: the images, uint8 ``[H, W, 3]`` each.
      heat: for each image, where its caption's words are seen, ``[words, 8, 8]``; see `heat_maps`.
      similarity: of the first 24 images and captions, ``[24, 24]``.
    """

    captions: list[str]
    pixels: list[np.ndarray]
    heat: list[np.ndarray]
    similarity: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the arrays by name, for `from_arrays`."""
        numbered = {"pixels": self.pixels, "heat": self.heat}
        named = {f"snapshot/{name}{number}": x for name, each in numbered.items() for number, x in enumerate(each)}
        return named | {"snapshot/similarity": self.similarity}

    @classmethod
    def from_arrays(cls, texts: list[str], arrays: dict[str, np.ndarray]) -> "Snapshot":
        """Returns the snapshot whose captions and arrays these are."""
        pixels, heat = (
            [arrays[f"snapshot/{name}{number}"] for number in range(len(texts))] for name in ("pixels", "heat")
        )
        return cls(
            texts,
            [x.astype(np.uint8) for x in pixels],
            [x.astype(np.float32) for x in heat],
            arrays["snapshot/similarity"].astype(np.float32),
        )


def take(workdir: Path, config: ConfigDict) -> Snapshot | None:
    """Returns a snapshot of the newest checkpoint of a run; None without validation data."""
    if not input_pipeline.has_validation(config.data):
        return None
    size = preset_of(config.model).vision.image_size
    source = input_pipeline.open_source(config.data, "validation", image_size=size, seed=config.seed)
    loaded = loading.read(workdir)
    encoder = Encoder(loaded.model, loaded.variables)
    records = [source[number] for number in range(min(_SEARCHED, len(source)))]
    texts = [captions(record)[0] for record in records]
    views = [evaluation_pixels(record["image"], size, MOST_PIXELS) for record in records]
    chosen = [number for number, text in enumerate(texts) if len(text.split()) in _WORDS][:_IMAGES]
    similarity = encoder.encode_image(views[:_PAIRS]) @ encoder.encode_text(texts[:_PAIRS]).T
    heat = [heat_of_words(encoder, views[number], texts[number]) for number in chosen]
    return Snapshot([texts[number] for number in chosen], [views[number] for number in chosen], heat, similarity)
