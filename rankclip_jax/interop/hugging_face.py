"""Export and validation of model folders for ``transformers.CLIPModel`` and ``CLIPProcessor``."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from rankclip_jax.input_pipeline import tokenizer
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import printable
from rankclip_jax.interop import files
from rankclip_jax.interop.weight_map import weight_map
from rankclip_jax.models.clip import Clip, Variables
from rankclip_jax.models.encoder import EncoderConfig
from rankclip_jax.models.presets import Preset
from rankclip_jax.models.transformer import LAYER_NORM_EPSILON

_ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu"}  # Hugging Face's names to ours
# The defaults of transformers.CLIPConfig that affect the computation; its configuration files omit them.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "text_config": {
        "vocab_size": 49_408,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "eos_token_id": 49_407,
    },
    "vision_config": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_channels": 3,
        "image_size": 224,
        "patch_size": 32,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    },
}
_OLD_END_OF_TEXT = 2  # with this value, the library uses the largest id of a text as its end, as CLIP does
_START, _END = "<|startoftext|>", "<|endoftext|>"


def write(folder: Path, model: Clip, variables: Variables) -> None:
    """Writes the weights, the model's and the image processor's settings, and the tokenizer.

    Raises:
      UserError: CLIPModel does not support the model.
    """
    preset = model.preset
    mappings = weight_map(preset, "hugging_face")
    folder.mkdir(parents=True)
    tensors = {mapping.name: mapping.view(variables) for mapping in mappings}
    files.write(folder / "model.safetensors", tensors, {"format": "pt"})
    _write_json(folder / "config.json", _model_config(model))
    _write_json(folder / "preprocessor_config.json", _processor_config(model))
    _write_tokenizer(folder, preset.text.context_length)


def embeddings(folder: Path, pixels: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes unit embeddings of normalised pixels ``[n, 3, H, W]`` and token ids ``[n, L]`` with ``transformers``."""
    torch = files.import_torch("comparing with transformers")
    import transformers

    loaded: Any = transformers.CLIPModel.from_pretrained(folder, output_loading_info=True)
    model, report = loaded
    surplus = {kind: sorted(report[kind]) for kind in ("missing_keys", "unexpected_keys") if report[kind]}
    if surplus:
        raise UserError(
            f"{folder}: expected transformers to load the export without missing or unexpected keys; found {surplus}. "
            "Use another version of transformers, or --format=open_clip."
        )
    with torch.no_grad():
        outputs = model.eval()(input_ids=torch.tensor(tokens).long(), pixel_values=torch.tensor(pixels))
    return outputs.image_embeds.numpy(), outputs.text_embeds.numpy()


def resolve(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Returns the settings that ``transformers.CLIPConfig`` derives from a ``config.json``.

    Missing fields have the library's defaults. A part under ``text_config_dict``, as early versions wrote it, overrides
    ``text_config``, including the defaults of its missing fields.

    Args:
      config: the content of the file.
      path: the file, for errors.

    Returns:
      ``projection_dim``, and under ``text_config`` and ``vision_config`` the fields of `_DEFAULTS`.

    Raises:
      UserError: the file is not a CLIP model's, or a field has a type that the library does not accept.
    """
    if config.get("model_type", "clip") != "clip":
        found = printable(repr(config["model_type"]), 60)
        raise UserError(f"{path}: expected model_type 'clip'; found {found}.")
    resolved: dict[str, Any] = {"projection_dim": config.get("projection_dim", 512)}
    _check_type(path, "projection_dim", resolved["projection_dim"], 512)
    for name, defaults in _DEFAULTS.items():
        given: dict[str, Any] = {}
        for key, beneath in ((name, {}), (f"{name}_dict", defaults)):
            part = config.get(key)
            if not isinstance(part, dict | None):
                raise UserError(f"{path}: {key}: expected an object; found {printable(repr(part), 60)}.")
            given |= {} if part is None else beneath | part
        resolved[name] = {field: given.get(field, default) for field, default in defaults.items()}
        for field, value in resolved[name].items():
            _check_type(path, f"{name}.{field}", value, defaults[field])
    return resolved


def _check_type(path: Path, field: str, value: object, default: object) -> None:
    if type(value) is not type(default):
        raise UserError(f"{path}: {field}: expected a {type(default).__name__}; found {printable(repr(value), 60)}.")


def check_config(path: Path, resolved: dict[str, Any], preset: Preset) -> str:
    """Checks that the settings are those of our preset, which tensors do not show; returns the activation.

    Args:
      path: the file of the settings, for errors.
      resolved: see `resolve`.
      preset: the preset of the weights.

    Raises:
      UserError: a setting differs from the preset's.
    """
    vision, text = preset.vision, preset.text
    shared = {"layer_norm_eps": LAYER_NORM_EPSILON}
    expected = {
        "vision_config": _sizes(vision)
        | {"image_size": vision.image_size, "patch_size": vision.stride, "num_channels": 3}
        | shared,
        "text_config": _sizes(text)
        | {"vocab_size": text.vocabulary_size, "max_position_embeddings": text.context_length}
        | shared,
    }
    activations = {resolved[part]["hidden_act"] for part in expected}
    if len(activations) > 1 or not activations <= _ACTIVATIONS.keys():
        raise UserError(
            f"{path}: hidden_act: expected one of {', '.join(_ACTIVATIONS)} in both towers; "
            f"found {', '.join(printable(name, 60) for name in sorted(activations))}."
        )
    for part, fields in expected.items():
        for name, value in fields.items():
            found = resolved[part][name]
            if found != value and not (isinstance(value, float) and math.isclose(found, value)):
                raise UserError(f"{path}: {part}.{name}: only {value} is supported; found {printable(found, 60)}.")
    if (size := resolved["projection_dim"]) != preset.embedding_size:
        raise UserError(f"{path}: projection_dim: expected {preset.embedding_size}; found {printable(size, 60)}.")
    if (mark := resolved["text_config"]["eos_token_id"]) not in (tokenizer.END_OF_TEXT, _OLD_END_OF_TEXT):
        raise UserError(
            f"{path}: text_config.eos_token_id: expected {tokenizer.END_OF_TEXT}; found {printable(mark, 60)}."
        )
    return _ACTIVATIONS[activations.pop()]


def _sizes(part: Any) -> dict[str, Any]:
    """Returns a tower's sizes under Hugging Face's names."""
    return {
        "hidden_size": part.width,
        "intermediate_size": 4 * part.width,
        "num_hidden_layers": part.layers,
        "num_attention_heads": part.heads,
    }


def _model_config(model: Clip) -> dict[str, Any]:
    preset, activation = model.preset, model.execution.activation

    def tower(part: EncoderConfig) -> dict[str, Any]:
        return _sizes(part) | {
            "hidden_act": activation,
            "layer_norm_eps": LAYER_NORM_EPSILON,
            "projection_dim": preset.embedding_size,
        }

    vision, text = preset.vision, preset.text
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": preset.embedding_size,
        "logit_scale_init_value": math.log(model.initial_logit_scale),
        "torch_dtype": "float32",
        "vision_config": tower(vision)
        | {"model_type": "clip_vision_model", "image_size": vision.image_size, "patch_size": vision.stride},
        "text_config": tower(text)
        | {
            "model_type": "clip_text_model",
            "vocab_size": text.vocabulary_size,
            "max_position_embeddings": text.context_length,
            "bos_token_id": tokenizer.START_OF_TEXT,
            "eos_token_id": tokenizer.END_OF_TEXT,
            "pad_token_id": tokenizer.END_OF_TEXT,
        },
    }


def _processor_config(model: Clip) -> dict[str, Any]:
    image_size = model.preset.vision.image_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "CLIPProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": image_size},
        "resample": 3,  # bicubic, in Pillow's numbering
        "do_center_crop": True,
        "crop_size": {"height": image_size, "width": image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": model.pixel_mean,
        "image_std": model.pixel_std,
    }


def _write_tokenizer(folder: Path, context_length: int) -> None:
    ids, merges = tokenizer.vocabulary()
    marks = {_START: tokenizer.START_OF_TEXT, _END: tokenizer.END_OF_TEXT}
    _write_json(folder / "vocab.json", ids | marks)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf8")
    special = {"bos_token": _START, "eos_token": _END, "pad_token": _END, "unk_token": _END}
    _write_json(folder / "special_tokens_map.json", special)
    _write_json(
        folder / "tokenizer_config.json",
        special | {"tokenizer_class": "CLIPTokenizer", "do_lower_case": True, "model_max_length": context_length},
    )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf8")
