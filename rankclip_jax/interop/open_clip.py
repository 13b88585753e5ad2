"""Export of files for open_clip and for the RankCLIP release's evaluation, which share OpenAI's layout."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.interop import files
from rankclip_jax.interop.weight_map import batch_counters, weight_map
from rankclip_jax.models import presets
from rankclip_jax.models.clip import PIXEL_MEAN, PIXEL_STD, Clip, Variables
from rankclip_jax.models.families import TEXT_ENCODERS, VISION_ENCODERS
from rankclip_jax.models.presets import PRESETS, Preset

# Presets that open_clip also has with the suffix -quickgelu; it has ViT-S-16 only without it.
_WITH_QUICK_GELU = {"ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14",
                    "RN50", "RN101", "RN50x4", "RN50x16", "RN50x64"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Call:
    """The arguments with which open_clip creates a model.

    Args:
      name: the model's name.
      arguments: additional arguments.
      config: the content of a model config, for names that open_clip does not have; None: not needed.
    """

    name: str
    arguments: dict[str, Any]
    config: dict[str, Any] | None = None


def call_for(name: str, model: Clip, variables: Variables) -> Call:
    """Returns the call that creates a preset in open_clip, by its name or by a model config.

    Raises:
      UserError: open_clip does not support the model.
    """
    quick = model.execution.activation == "quick_gelu"
    preset = model.preset
    weight_map(preset, "open_clip")  # raises for models that open_clip does not support
    if name not in _WITH_QUICK_GELU | {"ViT-S-16"} or not _is_named(name, preset) or has_bias(variables):
        return Call(f"rankclip-{name}", _pixels(model), _config(model, has_bias(variables)))
    arguments = _pixels(model)
    if quick and name not in _WITH_QUICK_GELU:
        arguments["force_quick_gelu"] = True
    elif quick:
        name += "-quickgelu"
    if model.preset.vision.image_size != PRESETS[name.removesuffix("-quickgelu")].vision.image_size:
        arguments["force_image_size"] = model.preset.vision.image_size
    return Call(name, arguments)


def name_of(name: str, model: Clip, variables: Variables) -> str:
    """Returns a preset's name in results, which is open_clip's, so that they compare with CLIP_benchmark's."""
    try:
        return call_for(name, model, variables).name
    except UserError:  # open_clip does not support the model
        return name


def write(path: Path, name: str, model: Clip, variables: Variables) -> None:
    """Writes safetensors in open_clip's layout, with the model's name and sizes as metadata."""
    pixels = {"pixel_mean": json.dumps(model.pixel_mean), "pixel_std": json.dumps(model.pixel_std)}
    sizes = {
        "embedding_size": model.preset.embedding_size,
        "vision": presets.to_dict(model.preset.vision, VISION_ENCODERS),
        "text": presets.to_dict(model.preset.text, TEXT_ENCODERS),
    }
    metadata = {
        "format": "pt",
        "model": name,
        "activation": model.execution.activation,
        "sizes": json.dumps(sizes),
        **pixels,
    }
    files.write(path, state_dict(model, variables), metadata)


def write_config(folder: Path, call: Call) -> None:
    """Writes a model config for open_clip, under the model's name, if open_clip needs one."""
    if call.config is not None:
        (folder / f"{call.name}.json").write_text(json.dumps(call.config, indent=2) + "\n", encoding="utf8")


def write_release(path: Path, name: str, model: Clip, variables: Variables) -> None:
    """Writes a checkpoint in the format of the RankCLIP release, whose names have DataParallel's prefix ``module.``.

    Raises:
      UserError: PyTorch is not installed, or the release does not support the model.
    """
    torch = files.import_torch("--format rankclip: writing it")
    if _pixels(model):
        raise UserError(
            "--format: the RankCLIP release supports only CLIP's pixel normalisation; found config.model.pixel_mean="
            f"{model.pixel_mean}, config.model.pixel_std={model.pixel_std}. Use --format open_clip."
        )
    if model.execution.activation != "quick_gelu" or has_bias(variables):
        raise UserError(
            "--format: the RankCLIP release supports only QuickGELU without a learned bias; found "
            f"{model.execution.activation}{' with a learned bias' if has_bias(variables) else ''}. "
            "Use --format open_clip."
        )
    tensors = {f"module.{key}": torch.tensor(value) for key, value in state_dict(model, variables).items()}
    files.write_torch(path, {"epoch": 0, "name": name, "state_dict": tensors})


def state_dict(model: Clip, variables: Variables) -> files.Tensors:
    """Returns the tensors by OpenAI's names."""
    mappings = weight_map(model.preset, "open_clip", has_bias(variables))
    tensors = {mapping.name: mapping.view(variables) for mapping in mappings}
    return tensors | {name: np.zeros((), np.int64) for name in batch_counters(mappings)}


def command(path: Path, call: Call) -> str:
    """Returns the Python code that loads an exported file."""
    arguments = "".join(f", {key}={value!r}" for key, value in call.arguments.items())
    create = (
        f"model, _, preprocess = open_clip.create_model_and_transforms({call.name!r}, "
        f"pretrained={str(path)!r}{arguments})"
    )
    if call.config is None:
        return create
    return f"open_clip.add_model_config({str(path.parent / f'{call.name}.json')!r}); {create}"


def embeddings(path: Path, call: Call, pixels: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes unit embeddings of normalised pixels ``[n, 3, H, W]`` and token ids ``[n, L]`` with open_clip."""
    torch = files.import_torch("comparing with open_clip")
    import open_clip

    if call.config is not None:
        open_clip.add_model_config(path.parent / f"{call.name}.json")
    forced = {name: value for name, value in call.arguments.items() if name.startswith("force_")}
    model = open_clip.create_model(call.name, pretrained=str(path), **forced).eval()
    with torch.no_grad():
        images = model.encode_image(torch.tensor(pixels), normalize=True)
        texts = model.encode_text(torch.tensor(tokens).long(), normalize=True)
    return images.numpy(), texts.numpy()


def has_bias(variables: Variables) -> bool:
    """Returns whether the weights include a learned logit bias, as SigLIP's do."""
    return "logit_bias" in variables["params"]


def _is_named(name: str, preset: Preset) -> bool:
    """Returns whether a model has the sizes of the preset with its name, ignoring image size and training options."""
    own = PRESETS[name].with_image_size(preset.vision.image_size)
    return (own.vision.to_open_clip(), own.text) == (preset.vision.to_open_clip(), preset.text)


def _pixels(model: Clip) -> dict[str, Any]:
    """Returns the arguments for a pixel normalisation other than CLIP's."""
    if (model.pixel_mean, model.pixel_std) == (PIXEL_MEAN, PIXEL_STD):
        return {}
    return {"image_mean": model.pixel_mean, "image_std": model.pixel_std}


def _config(model: Clip, logit_bias: bool) -> dict[str, Any]:
    return {
        "embed_dim": model.preset.embedding_size,
        "quick_gelu": model.execution.activation == "quick_gelu",
        **({"init_logit_bias": 0.0} if logit_bias else {}),
        "vision_cfg": model.preset.vision.to_open_clip(),
        "text_cfg": model.preset.text.to_open_clip(),
    }
