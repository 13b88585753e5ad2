"""The sizes of the models, by name: one table, in the field's terms."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class VisionPreset:
    """An image tower; ``width`` is also the size of a token."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int


@dataclasses.dataclass(frozen=True)
class TextPreset:
    """A text tower over CLIP's vocabulary."""

    width: int
    layers: int
    heads: int
    context_length: int = 77
    vocabulary_size: int = 49_408


@dataclasses.dataclass(frozen=True)
class Preset:
    """A two-tower model; both towers end in embeddings of ``embedding_size``."""

    embedding_size: int
    vision: VisionPreset
    text: TextPreset


PRESETS: dict[str, Preset] = {
    # Small enough to train in minutes on two CPU cores; short context, since scene captions are short.
    "ViT-demo": Preset(128, VisionPreset(32, 8, 128, 4, 2), TextPreset(128, 2, 2, context_length=24)),
    # The sizes of the CLIP paper, and of open_clip where it has none of that name.
    "ViT-S-16": Preset(384, VisionPreset(224, 16, 384, 12, 6), TextPreset(384, 12, 6)),
    "ViT-B-32": Preset(512, VisionPreset(224, 32, 768, 12, 12), TextPreset(512, 12, 8)),
    "ViT-B-16": Preset(512, VisionPreset(224, 16, 768, 12, 12), TextPreset(512, 12, 8)),
    "ViT-L-14": Preset(768, VisionPreset(224, 14, 1024, 24, 16), TextPreset(768, 12, 12)),
    "ViT-L-14-336": Preset(768, VisionPreset(336, 14, 1024, 24, 16), TextPreset(768, 12, 12)),
    "ViT-H-14": Preset(1024, VisionPreset(224, 14, 1280, 32, 16), TextPreset(1024, 24, 16)),
}
