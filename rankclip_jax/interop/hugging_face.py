"""Folders for ``transformers.CLIPModel`` and ``CLIPProcessor``."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from rankclip_jax.input_pipeline import tokenizer
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.interop import files, open_clip
from rankclip_jax.interop.places import hugging_face_places
from rankclip_jax.models.clip import Clip, Variables
from rankclip_jax.models.presets import Preset, ResNetPreset, TextPreset, VisionPreset
from rankclip_jax.models.transformer import LAYER_NORM_EPSILON

_ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu"}  # theirs to ours
_START, _END = "<|startoftext|>", "<|endoftext|>"


def write(folder: Path, model: Clip, variables: Variables) -> None:
    """Writes the weights, the model's and the image processor's settings, and the tokenizer.

    Raises:
      UserError: the model has no place in this layout.
    """
    preset = model.preset
    open_clip.check_pooling(model)
    if isinstance(preset.vision, ResNetPreset):
        raise UserError(
            "--format: Hugging Face's CLIPModel has no ResNets. Take --format open_clip, or train a ViT preset."
        )
    folder.mkdir(parents=True)
    tensors = {place.name: place.view(variables) for place in hugging_face_places(preset)}
    files.write(folder / "model.safetensors", tensors, {"format": "pt"})
    _write_json(folder / "config.json", _model_config(model))
    _write_json(folder / "preprocessor_config.json", _processor_config(model))
    _write_tokenizer(folder, preset.text.context_length)


def embeddings(folder: Path, pixels: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit embeddings by ``transformers`` of normalised pixels ``[n, 3, H, W]`` and token ids ``[n, L]``."""
    torch = files.import_torch("comparing with transformers")
    import transformers

    loaded: Any = transformers.CLIPModel.from_pretrained(folder, output_loading_info=True)
    model, report = loaded
    surplus = {kind: sorted(report[kind]) for kind in ("missing_keys", "unexpected_keys") if report[kind]}
    if surplus:
        raise UserError(f"{folder}: transformers reads it with {surplus}; expected none.")
    with torch.no_grad():
        outputs = model.eval()(input_ids=torch.tensor(tokens).long(), pixel_values=torch.tensor(pixels))
    return outputs.image_embeds.numpy(), outputs.text_embeds.numpy()


def check_config(path: Path, config: dict[str, Any], preset: Preset) -> str:
    """What tensors do not show: the settings must be those of our preset. Returns the activation.

    Raises:
      UserError: it is not a CLIP model, or one computed otherwise than here.
    """
    if config.get("model_type") != "clip":
        raise UserError(f"{path}/config.json: expected model_type 'clip'; found {config.get('model_type')!r}.")
    activations = set()
    # Both parts leave out what is the library's default.
    defaults = {"vision": ("quick_gelu", 12), "text": ("quick_gelu", 8)}
    for part, own in (("vision", preset.vision), ("text", preset.text)):
        settings = config.get(f"{part}_config") or {}
        activation, heads = defaults[part]
        activations.add(settings.get("hidden_act", activation))
        found = {
            "num_attention_heads": settings.get("num_attention_heads", heads),
            "layer_norm_eps": settings.get("layer_norm_eps", LAYER_NORM_EPSILON),
        }
        for name, expected in (("num_attention_heads", own.heads), ("layer_norm_eps", LAYER_NORM_EPSILON)):
            if not math.isclose(found[name], expected):
                raise UserError(f"{path}/config.json: {part}_config.{name}: expected {expected}, found {found[name]}.")
    if len(activations) > 1 or not activations <= _ACTIVATIONS.keys():
        raise UserError(
            f"{path}/config.json: hidden_act: expected one of {', '.join(_ACTIVATIONS)} in both towers; "
            f"found {', '.join(sorted(activations))}."
        )
    return _ACTIVATIONS[activations.pop()]


def _model_config(model: Clip) -> dict[str, Any]:
    preset, activation = model.preset, model.execution.activation

    def tower(part: VisionPreset | TextPreset) -> dict[str, Any]:
        return {
            "hidden_size": part.width,
            "intermediate_size": 4 * part.width,
            "num_hidden_layers": part.layers,
            "num_attention_heads": part.heads,
            "hidden_act": activation,
            "layer_norm_eps": LAYER_NORM_EPSILON,
            "projection_dim": preset.embedding_size,
        }

    vision, text = preset.vision, preset.text
    assert isinstance(vision, VisionPreset)
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": preset.embedding_size,
        "logit_scale_init_value": math.log(model.initial_logit_scale),
        "torch_dtype": "float32",
        "vision_config": tower(vision)
        | {"model_type": "clip_vision_model", "image_size": vision.image_size, "patch_size": vision.patch_size},
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
        "image_std": model.pixel_deviation,
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
