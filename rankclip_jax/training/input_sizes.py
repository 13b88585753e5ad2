"""What a model sees of an image and reads of a caption, in words, and notes where that is too little."""

import contextlib

import numpy as np

from rankclip_jax.input_pipeline.errors import UnreadableError
from rankclip_jax.input_pipeline.source import Source, captions
from rankclip_jax.input_pipeline.tokenizers import Tokenizer
from rankclip_jax.models.presets import PRESETS, Preset

_FEW_POSITIONS = 16  # of which an image is too coarse for any preset that is meant for more pixels
_LOOKED_AT, _LONGEST = 64, 4096  # records, and tokens of each of their captions
_CUT_SHARE = 0.1


def summary(preset: Preset) -> dict[str, str]:
    """Image size, patches and context length, for the lines at the start of a run."""
    vision = preset.vision
    return {
        "images": f"{vision.image_size} x {vision.image_size} pixels, {vision.positions} {vision.unit} of "
        f"{vision.stride} x {vision.stride}",
        "captions": f"{preset.text.context_length} tokens",
    }


def notes(name: str, preset: Preset, source: Source, tokenizer: Tokenizer) -> list[str]:
    """A line for each of: images that are too coarse, captions that lose their end.

    Args:
      name: of the preset.
      preset: as it is trained.
      source: the training data, of which a few captions are read.
      tokenizer: the model's.
    """
    vision, found = preset.vision, []
    own_image_size = PRESETS[name].vision.image_size if name in PRESETS else vision.image_size
    if vision.image_size != own_image_size and vision.positions < _FEW_POSITIONS:
        own = preset.with_image_size(own_image_size).vision.positions
        found.append(
            f"note: at {vision.image_size} pixels {name} sees {vision.positions} places of an image, too few to tell "
            f"much; at its own {own_image_size} pixels, {own}. Use --config.model.image_size=0 for its own size, or a "
            "preset with smaller patches, such as --config.model.name=ViT-demo"
        )
    texts = _some_captions(source)
    length = preset.text.context_length
    cut = (
        int((np.count_nonzero(tokenizer(texts, _LONGEST) != tokenizer.padding, axis=1) > length).sum()) if texts else 0
    )
    if cut > _CUT_SHARE * len(texts):
        found.append(
            f"note: {cut} of {len(texts)} captions that were looked at are longer than the {length} tokens that {name} "
            "reads, and lose their end. Use a preset that reads more, such as --config.model.name=ViT-S-16 with 77, "
            "or shorter captions"
        )
    return found


def _some_captions(source: Source) -> list[str]:
    found: list[str] = []
    for index in range(0, len(source), -(-len(source) // _LOOKED_AT)):
        with contextlib.suppress(UnreadableError):
            found += captions(source[index])
    return found
