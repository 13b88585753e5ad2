"""A summary of a model's image and caption sizes, and notes where they are too small for the data."""

import contextlib

import numpy as np

from rankclip_jax.input_pipeline.errors import UnreadableError
from rankclip_jax.input_pipeline.source import Source, captions
from rankclip_jax.input_pipeline.tokenizers import Tokenizer
from rankclip_jax.models.presets import PRESETS, Preset

_MIN_POSITIONS = 16  # fewer are too coarse for any preset that is designed for more pixels
_SAMPLED_RECORDS, _MAX_TOKENS = 64, 4096  # records whose captions are checked, and tokens of each of their captions
_TRUNCATED_FRACTION = 0.1  # of the captions, above which a note is printed


def summary(preset: Preset) -> dict[str, str]:
    """Returns image size, patches and context length, for the summary at the start of a run."""
    vision = preset.vision
    return {
        "images": f"{vision.image_size} x {vision.image_size} pixels, {vision.positions} {vision.unit} of "
        f"{vision.stride} x {vision.stride}",
        "captions": f"{preset.text.context_length} tokens",
    }


def notes(name: str, preset: Preset, source: Source, tokenizer: Tokenizer) -> list[str]:
    """Returns a line each for images that are too coarse and for captions that are truncated.

    Args:
      name: of the preset.
      preset: the sizes that are trained.
      source: the training data, of which a few captions are read.
      tokenizer: the model's.
    """
    vision, lines = preset.vision, []
    own_image_size = PRESETS[name].vision.image_size if name in PRESETS else vision.image_size
    if vision.image_size != own_image_size and vision.positions < _MIN_POSITIONS:
        own = preset.with_image_size(own_image_size).vision.positions
        lines.append(
            f"note: at {vision.image_size} pixels {name} has only {vision.positions} {vision.unit}, too few to "
            f"distinguish images; at the preset's {own_image_size} pixels, {own}. Use --config.model.image_size=0 for "
            "the preset's size, or a preset with smaller patches, such as --config.model.name=ViT-demo"
        )
    texts = _some_captions(source)
    length = preset.text.context_length
    truncated = (
        int((np.count_nonzero(tokenizer(texts, _MAX_TOKENS) != tokenizer.padding, axis=1) > length).sum())
        if texts
        else 0
    )
    if truncated > _TRUNCATED_FRACTION * len(texts):
        lines.append(
            f"note: {truncated} of {len(texts)} sampled captions are longer than the context length of {name}, "
            f"{length} tokens, and are truncated. Use a preset with a longer context, such as "
            "--config.model.name=ViT-S-16 with 77, or shorter captions"
        )
    return lines


def _some_captions(source: Source) -> list[str]:
    texts: list[str] = []
    for index in range(0, len(source), -(-len(source) // _SAMPLED_RECORDS)):
        with contextlib.suppress(UnreadableError):
            texts += captions(source[index])
    return texts
