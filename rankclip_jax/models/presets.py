"""The sizes of the models, by name: one table, in the field's terms."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class VisionPreset:
    """An image transformer; ``width`` is also the size of a token."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int

    @property
    def stride(self) -> int:
        """Pixels between the positions of the last grid: the image size is a multiple of it."""
        return self.patch_size


@dataclasses.dataclass(frozen=True)
class ResNetPreset:
    """An image ResNet; ``width`` counts the channels after the stem, ``layers`` the blocks of each stage."""

    image_size: int
    width: int
    layers: tuple[int, int, int, int]
    stride: int = 32

    @property
    def heads(self) -> int:
        """Of the attention pooling: 64 channels each."""
        return self.width // 2


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
    vision: VisionPreset | ResNetPreset
    text: TextPreset

    def with_image_size(self, image_size: int) -> "Preset":
        """The same model for images of another size."""
        return dataclasses.replace(self, vision=dataclasses.replace(self.vision, image_size=image_size))


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
    "RN50": Preset(1024, ResNetPreset(224, 64, (3, 4, 6, 3)), TextPreset(512, 12, 8)),
    "RN101": Preset(512, ResNetPreset(224, 64, (3, 4, 23, 3)), TextPreset(512, 12, 8)),
    "RN50x4": Preset(640, ResNetPreset(288, 80, (4, 6, 10, 6)), TextPreset(640, 12, 10)),
    "RN50x16": Preset(768, ResNetPreset(384, 96, (6, 8, 18, 8)), TextPreset(768, 12, 12)),
    "RN50x64": Preset(1024, ResNetPreset(448, 128, (3, 15, 36, 10)), TextPreset(1024, 12, 16)),
}
