"""Model presets: the table of model sizes by name, and the reader of open_clip's JSON files."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from ml_collections import ConfigDict

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import printable, read_json
from rankclip_jax.input_pipeline.registry import Registry
from rankclip_jax.models.encoder import EncoderConfig, TextConfig, VisionConfig
from rankclip_jax.models.families import TEXT_ENCODERS, VISION_ENCODERS
from rankclip_jax.models.resnet import ResNetConfig
from rankclip_jax.models.shared_text import SharedTextConfig
from rankclip_jax.models.text_transformer import TextTransformerConfig
from rankclip_jax.models.vision_transformer import VisionTransformerConfig

_SHARED = VisionConfig.declared().keys() | TextConfig.declared().keys()
_Encoder = TypeVar("_Encoder", bound=EncoderConfig)


@dataclasses.dataclass(frozen=True)
class Preset:
    """The sizes of a two-tower model.

    Args:
      embedding_size: the size of both encoders' embeddings.
      vision: the image encoder.
      text: the text encoder.
      activation: the activation of both encoders, a key of `activations.ACTIVATIONS`.
    """

    embedding_size: int
    vision: VisionConfig
    text: TextConfig
    activation: str = "quick_gelu"

    def with_image_size(self, image_size: int) -> "Preset":
        """Returns the same model for images of another size."""
        return dataclasses.replace(self, vision=dataclasses.replace(self.vision, image_size=image_size))


PRESETS: dict[str, Preset] = {
    # Small enough to train in minutes on two CPU cores; short context, since scene captions are short.
    "ViT-demo": Preset(
        128,
        VisionTransformerConfig(32, 8, 128, 4, 2),
        TextTransformerConfig(context_length=24, width=128, layers=2, heads=2),
    ),
    # The sizes of the CLIP paper, or of open_clip for models that the paper does not have.
    "ViT-S-16": Preset(
        384, VisionTransformerConfig(224, 16, 384, 12, 6), TextTransformerConfig(width=384, layers=12, heads=6)
    ),
    "ViT-B-32": Preset(
        512, VisionTransformerConfig(224, 32, 768, 12, 12), TextTransformerConfig(width=512, layers=12, heads=8)
    ),
    "ViT-B-16": Preset(
        512, VisionTransformerConfig(224, 16, 768, 12, 12), TextTransformerConfig(width=512, layers=12, heads=8)
    ),
    "ViT-L-14": Preset(
        768, VisionTransformerConfig(224, 14, 1024, 24, 16), TextTransformerConfig(width=768, layers=12, heads=12)
    ),
    "ViT-L-14-336": Preset(
        768, VisionTransformerConfig(336, 14, 1024, 24, 16), TextTransformerConfig(width=768, layers=12, heads=12)
    ),
    "ViT-H-14": Preset(
        1024, VisionTransformerConfig(224, 14, 1280, 32, 16), TextTransformerConfig(width=1024, layers=24, heads=16)
    ),
    "RN50": Preset(1024, ResNetConfig(224, 64, (3, 4, 6, 3)), TextTransformerConfig(width=512, layers=12, heads=8)),
    "RN101": Preset(512, ResNetConfig(224, 64, (3, 4, 23, 3)), TextTransformerConfig(width=512, layers=12, heads=8)),
    "RN50x4": Preset(640, ResNetConfig(288, 80, (4, 6, 10, 6)), TextTransformerConfig(width=640, layers=12, heads=10)),
    "RN50x16": Preset(768, ResNetConfig(384, 96, (6, 8, 18, 8)), TextTransformerConfig(width=768, layers=12, heads=12)),
    "RN50x64": Preset(
        1024, ResNetConfig(448, 128, (3, 15, 36, 10)), TextTransformerConfig(width=1024, layers=12, heads=16)
    ),
}


def preset_of(model: ConfigDict) -> Preset:
    """Returns the model sizes that the settings under ``config.model`` describe.

    ``vision`` and ``text`` override the preset ``name``. Where both name their family and ``embedding_size`` is given,
    as in every run's ``config.json``, no preset is needed.

    Args:
      model: the settings.

    Raises:
      UserError: the preset or family is unknown, or the sizes are inconsistent.
    """
    vision, text = model.vision.to_dict(), model.text.to_dict()
    complete = bool(model.embedding_size) and "family" in vision and "family" in text
    base = None if complete else named(model.name, vision.get("family"), text.get("family"))
    preset = Preset(
        model.embedding_size or base.embedding_size,  # type: ignore[union-attr]
        _encoder("vision", vision, base and base.vision, VISION_ENCODERS, image_size=model.image_size),
        _encoder("text", text, base and base.text, TEXT_ENCODERS, context_length=model.context_length),
        model.activation or (base.activation if base else "quick_gelu"),
    )
    vision_config = preset.vision
    if isinstance(preset.text, SharedTextConfig) and not vision_config.encodes_text:
        raise UserError(
            "config.model.text.family: 'shared' expects an image encoder that encodes texts too; found "
            f"{type(vision_config).__name__}. Use one that declares encodes_text, or "
            "--config.model.text.family=transformer."
        )
    if vision_config.image_size % vision_config.stride:
        size = max(round(vision_config.image_size / vision_config.stride), 1) * vision_config.stride
        default = f", or 0 for the preset's {base.vision.image_size}" if base else ""
        raise UserError(
            f"config.model.image_size: expected a multiple of {vision_config.stride} for {model.name}; found "
            f"{vision_config.image_size}. Use --config.model.image_size={size}{default}."
        )
    return preset


def named(name: str, vision_family: str | None = None, text_family: str | None = None) -> Preset:
    """Returns the preset with a name, or the model described by the open_clip JSON file at a path.

    Args:
      name: the name or path.
      vision_family: the image encoder family that a JSON file describes; None: found among the built-in ones.
      text_family: the text encoder family, likewise.

    Raises:
      UserError: the preset is unknown, or the file describes a model that is not supported.
    """
    if name in PRESETS:
        return PRESETS[name]
    if name.endswith(".json"):
        return from_open_clip(Path(name).expanduser(), vision_family, text_family)
    raise UserError(
        f"config.model.name: unknown preset {name!r}; choose from {', '.join(map(repr, PRESETS))}, or use the path of "
        "an open_clip JSON file. If a recipe or module of yours adds the preset, use --config RECIPE."
    )


def from_open_clip(path: Path, vision_family: str | None = None, text_family: str | None = None) -> Preset:
    """Returns the model that a JSON file in the format of open_clip's ``model_configs`` describes; see `named`.

    Raises:
      UserError: the file cannot be read, or describes a model that is not supported.
    """
    try:
        config = read_json(path)
    except OSError as error:
        raise UserError(f"config.model.name: {printable(path)}: cannot be read ({error.strerror}).") from error
    towers: dict[str, Any] = {}
    parts: tuple[tuple[str, Registry, str | None], ...] = (
        ("vision_cfg", VISION_ENCODERS, vision_family),
        ("text_cfg", TEXT_ENCODERS, text_family),
    )
    for key, registry, family in parts:
        described = config.get(key)
        if not isinstance(described, dict):
            raise UserError(
                f"config.model.name: {printable(path)}: {key}: expected an object; found {printable(described)}."
            )
        try:
            families = [registry[family]] if family else list(registry.values())
            candidates = [tower for part in families if (tower := part.from_open_clip(described)) is not None]
            if not candidates:
                raise UserError(f"{key}: no supported encoder has these fields.")
            _check(candidates[0], key)
        except UserError as error:
            raise UserError(f"config.model.name: {printable(path)}: {error}") from error
        towers[key] = candidates[0]
    size = config.get("embed_dim")
    if type(size) is not int or size < 1:
        raise UserError(f"config.model.name: {printable(path)}: embed_dim: expected a whole number; found {size!r}.")
    activation = "quick_gelu" if config.get("quick_gelu", False) else "gelu"
    return Preset(size, towers["vision_cfg"], towers["text_cfg"], activation)


def resolved(model: ConfigDict) -> ConfigDict:
    """Returns a copy of the settings under ``config.model`` with all sizes filled in, so that no preset is needed."""
    preset = preset_of(model)
    complete = model.copy_and_resolve_references()
    with complete.unlocked():
        complete.embedding_size, complete.activation = preset.embedding_size, preset.activation
        complete.vision = ConfigDict(to_dict(preset.vision, VISION_ENCODERS, model.vision.get("family")))
        complete.text = ConfigDict(to_dict(preset.text, TEXT_ENCODERS, model.text.get("family")))
    return complete


def to_dict(encoder: EncoderConfig, registry: Registry, family: str | None = None) -> dict[str, Any]:
    """Returns an encoder's family and sizes by name."""
    kind = type(encoder)
    family = family or next(
        (name for name, registered in registry.items() if registered is kind), f"{kind.__module__}:{kind.__name__}"
    )
    return {"family": family} | {name: getattr(encoder, name) for name in encoder.declared()}


def _encoder(
    section: str, given: Mapping[str, Any], base: Any, registry: Registry[_Encoder], **overrides: int
) -> _Encoder:
    """Returns the encoder that ``config.model.<section>`` describes; ``overrides`` that are 0 are ignored."""
    kind: type[_Encoder] = registry[given["family"]] if "family" in given else type(base)
    flag = f"config.model.{section}"
    declared = kind.declared()
    if unknown := sorted(given.keys() - declared.keys() - {"family"}):
        raise UserError(f"{flag}.{unknown[0]}: unknown setting of this encoder; choose from {', '.join(declared)}.")
    # If the family differs from the preset's, only the sizes that all families of a modality share are kept.
    kept = declared if isinstance(base, kind) else {name for name in declared if name in _SHARED and base is not None}
    start = {name: getattr(base, name) for name in kept}
    values = start | {name: value for name, value in given.items() if name != "family"}
    values |= {name: value for name, value in overrides.items() if value}
    encoder = kind.from_config({name: setting.default for name, setting in declared.items()} | values)
    _check(encoder, flag)
    return encoder


def _check(encoder: EncoderConfig, flag: str) -> None:
    for name, setting in encoder.declared().items():
        setting.check(f"{flag}.{name}", getattr(encoder, name))
    encoder.check(flag)
