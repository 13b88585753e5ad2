"""The sizes of the models, by name: one table, in the field's terms."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from rankclip_jax.input_pipeline.errors import UserError

# What a size can be: of those that are not named here, the last.
_RANGES = {"layers": (1, 512), "context_length": (3, 2**14), "vocabulary_size": (49_408, 2**20), "": (1, 2**16)}


@dataclasses.dataclass(frozen=True)
class VisionPreset:
    """An image transformer; ``width`` is also the size of a token."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int

    @property
    def positions(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch_size) ** 2

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
    def positions(self) -> int:
        """Of the last grid, which the attention pooling reads."""
        return (self.image_size // self.stride) ** 2

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


def preset_of(model: ConfigDict) -> Preset:
    """The sizes that the settings under ``config.model`` describe, at the preset's own image size.

    Args:
      model: ``sizes`` where they are given, as in every run's ``config.json``; else the preset of this ``name``.

    Raises:
      UserError: there is no such preset, or the sizes are not a model's.
    """
    if model.sizes:
        return from_sizes(model.sizes.to_dict())
    if model.name not in PRESETS:
        raise UserError(
            f"config.model.name: unknown preset {model.name!r}; choose from {', '.join(map(repr, PRESETS))}."
        )
    return PRESETS[model.name]


def to_sizes(preset: Preset) -> dict[str, Any]:
    """A preset as numbers by name, to be written as JSON."""
    return dataclasses.asdict(preset)


def from_sizes(sizes: Mapping[str, Any]) -> Preset:
    """The preset that `to_sizes` made these numbers of.

    Raises:
      UserError: a number is missing, unknown or out of range.
    """
    _check_names("", sizes, Preset)
    for tower in ("vision", "text"):
        if not isinstance(sizes[tower], Mapping):
            raise UserError(f"config.model.sizes.{tower}: expected the sizes of a tower; found {sizes[tower]!r}.")
    vision = VisionPreset if "patch_size" in sizes["vision"] else ResNetPreset
    return Preset(
        _size("embedding_size", sizes["embedding_size"]),
        _tower("vision", sizes["vision"], vision),
        _tower("text", sizes["text"], TextPreset),
    )


def _tower(name: str, sizes: Mapping[str, Any], kind: type) -> Any:
    _check_names(f"{name}.", sizes, kind)
    values: dict[str, Any] = {}
    for key, value in sizes.items():
        flag = f"{name}.{key}"
        if kind is ResNetPreset and key == "layers":
            if not isinstance(value, list | tuple) or len(value) != 4:
                raise UserError(f"config.model.sizes.{flag}: expected the blocks of four stages; found {value!r}.")
            values[key] = tuple(_size(flag, blocks) for blocks in value)
        else:
            values[key] = _size(flag, value)
    tower = kind(**values)
    if tower.width % tower.heads:
        raise UserError(
            f"config.model.sizes.{name}.heads: expected a divisor of the width, {tower.width}; found {tower.heads}."
        )
    return tower


def _check_names(prefix: str, sizes: Mapping[str, Any], kind: type) -> None:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    needed = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    if missing := sorted(needed - sizes.keys()):
        raise UserError(f"config.model.sizes.{prefix}{missing[0]}: missing; expected {', '.join(fields)}.")
    if unknown := sorted(sizes.keys() - fields.keys()):
        raise UserError(f"config.model.sizes.{prefix}{unknown[0]}: no such size; expected {', '.join(fields)}.")


def _size(name: str, value: object) -> int:
    low, high = _RANGES.get(name.rpartition(".")[2], _RANGES[""])
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise UserError(f"config.model.sizes.{name}: expected a whole number, {low:,} to {high:,}; found {value!r}.")
    return value
