"""Files for open_clip, and for the RankCLIP release's evaluation, which share OpenAI's layout."""

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

# open_clip has these under the name that ends in -quickgelu too; ViT-S-16 only without.
_WITH_QUICK_GELU = {"ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14",
                    "RN50", "RN101", "RN50x4", "RN50x16", "RN50x64"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Call:
    """How open_clip builds a model: a name, arguments beside it, and settings where the name is not its own."""

    name: str
    arguments: dict[str, Any]
    config: dict[str, Any] | None = None


def call_for(name: str, model: Clip, variables: Variables) -> Call:
    """open_clip's name for a preset, or settings that make it one.

    Raises:
      UserError: open_clip has no such model.
    """
    quick = model.execution.activation == "quick_gelu"
    preset = model.preset
    weight_map(preset, "open_clip")  # raises for what the library has no layout for
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
    """What a preset is called in results: as open_clip calls it, so that they stand beside CLIP_benchmark's."""
    try:
        return call_for(name, model, variables).name
    except UserError:  # open_clip has no such model
        return name


def write(path: Path, name: str, model: Clip, variables: Variables) -> None:
    """Writes safetensors in open_clip's layout, and the settings beside them where open_clip has none."""
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


def write_config(folder: Path, how: Call) -> None:
    """Writes the settings of a model that open_clip does not know, by the name that it will know it by."""
    if how.config is not None:
        (folder / f"{how.name}.json").write_text(json.dumps(how.config, indent=2) + "\n", encoding="utf8")


def write_release(path: Path, name: str, model: Clip, variables: Variables) -> None:
    """Writes a checkpoint in the form of the RankCLIP release, whose names have the prefix of parallel training.

    Raises:
      UserError: PyTorch is not installed, or the release cannot compute the model.
    """
    torch = files.import_torch("--format rankclip: writing it")
    if _pixels(model):
        raise UserError(
            "--format: the RankCLIP release knows CLIP's pixel normalisation only; found config.model.pixel_mean="
            f"{model.pixel_mean}. Take --format open_clip."
        )
    if model.execution.activation != "quick_gelu" or has_bias(variables):
        raise UserError(
            "--format: the RankCLIP release computes only QuickGELU without a learned bias; found "
            f"{model.execution.activation}{' with a learned bias' if has_bias(variables) else ''}. "
            "Take --format open_clip."
        )
    tensors = {f"module.{key}": torch.tensor(value) for key, value in state_dict(model, variables).items()}
    files.write_torch(path, {"epoch": 0, "name": name, "state_dict": tensors})


def state_dict(model: Clip, variables: Variables) -> files.Tensors:
    """Tensors by OpenAI's names."""
    mappings = weight_map(model.preset, "open_clip", has_bias(variables))
    tensors = {mapping.name: mapping.view(variables) for mapping in mappings}
    return tensors | {name: np.zeros((), np.int64) for name in batch_counters(mappings)}


def command(path: Path, how: Call) -> str:
    """The Python that loads a file, to paste."""
    arguments = "".join(f", {key}={value!r}" for key, value in how.arguments.items())
    call = f"open_clip.create_model_and_transforms({how.name!r}, pretrained={str(path)!r}{arguments})"
    create = f"model, _, preprocess = {call}"
    if how.config is None:
        return create
    return f"open_clip.add_model_config({str(path.parent / f'{how.name}.json')!r}); {create}"


def embeddings(path: Path, how: Call, pixels: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit embeddings by open_clip of normalised pixels ``[n, 3, H, W]`` and token ids ``[n, L]``."""
    torch = files.import_torch("comparing with open_clip")
    import open_clip

    if how.config is not None:
        open_clip.add_model_config(path.parent / f"{how.name}.json")
    forced = {name: value for name, value in how.arguments.items() if name.startswith("force_")}
    model = open_clip.create_model(how.name, pretrained=str(path), **forced).eval()
    with torch.no_grad():
        images = model.encode_image(torch.tensor(pixels), normalize=True)
        texts = model.encode_text(torch.tensor(tokens).long(), normalize=True)
    return images.numpy(), texts.numpy()


def has_bias(variables: Variables) -> bool:
    """Whether a bias is among the weights, as SigLIP's is."""
    return "logit_bias" in variables["params"]


def _is_named(name: str, preset: Preset) -> bool:
    """Whether a model has the sizes of the preset of its name, at any image size and with any training options."""
    own = PRESETS[name].with_image_size(preset.vision.image_size)
    return (own.vision.to_open_clip(), own.text) == (preset.vision.to_open_clip(), preset.text)


def _pixels(model: Clip) -> dict[str, Any]:
    """The arguments for pixels that are not normalised as CLIP's are."""
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
