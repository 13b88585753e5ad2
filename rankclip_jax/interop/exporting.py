"""Export of weights to another library's format, with a comparison of the embeddings computed by that library."""

import importlib.util
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.tokenizers import TOKENIZERS
from rankclip_jax.interop import hugging_face, open_clip
from rankclip_jax.interop.loading import Weights
from rankclip_jax.interop.open_clip import Call
from rankclip_jax.models.clip import normalise

LARGEST_DIFFERENCE = 1e-4
_LIBRARIES = {
    "open_clip": "open_clip",
    "hugging_face": "transformers",
    "rankclip": "open_clip",
}  # which read the format
_PACKAGES = {"open_clip": "open_clip_torch"}  # where the name to install differs from the name to import


def write(path: Path, final: Path, form: str, weights: Weights) -> tuple[str, list[str]]:
    """Exports weights to ``path`` and verifies them; returns a summary and the lines of Python that load the export.

    Args:
      path: a temporary path, in a folder of its own.
      final: the final path of the export, as the lines of Python name it.
      form: ``"open_clip"``, ``"hugging_face"`` or ``"rankclip"``.
      weights: the weights to export.

    Raises:
      UserError: the format does not support the model, or the embeddings differ by more than `LARGEST_DIFFERENCE`.
    """
    model, variables = weights.model, weights.variables
    call = open_clip.call_for(weights.name, model, variables)
    if form == "hugging_face":
        hugging_face.write(path, model, variables)
        lines = [
            f"model = transformers.CLIPModel.from_pretrained({str(final)!r})",
            f"processor = transformers.CLIPProcessor.from_pretrained({str(final)!r})",
        ]
        if open_clip.has_bias(variables):
            lines.append(
                "note: CLIPModel has no learned logit bias; the export omits it, which does not change the embeddings"
            )
    else:
        writer = open_clip.write if form == "open_clip" else open_clip.write_release
        writer(path, weights.name, model, variables)
        open_clip.write_config(path.parent, call)
        lines = [open_clip.command(final, call)]
    return _compare(path, form, weights, call), lines


def _compare(path: Path, form: str, weights: Weights, call: Call) -> str:
    absent = [name for name in ("torch", _LIBRARIES[form]) if importlib.util.find_spec(name) is None]
    if absent:
        packages = " ".join(_PACKAGES.get(name, name) for name in absent)
        return f"Not verified, since {' and '.join(absent)} are not installed. Run: pip install {packages}"
    model = weights.model
    side = model.preset.vision.image_size
    images = np.random.default_rng(0).integers(0, 256, (4, side, side, 3)).astype(np.uint8)
    texts = ["a photo of a cat", "two dogs on a beach, in the rain", "", "Ein Bild 画像 🎨"]
    pixels = np.asarray(normalise(images, model.pixel_mean, model.pixel_std)).transpose(0, 3, 1, 2)
    tokens = TOKENIZERS[model.tokenizer]()(texts, model.preset.text.context_length)
    if form == "hugging_face":
        theirs = hugging_face.embeddings(path, pixels, tokens)
    else:
        theirs = open_clip.embeddings(path, call, pixels, tokens)
    # Full float32 precision on every device.
    with jax.default_matmul_precision("highest"):
        outputs: Any = model.apply(weights.variables, {"image": images, "text": tokens})
    ours = [np.asarray(outputs.embeddings[name]) for name in ("image", "text")]
    difference = max(float(np.abs(one - other).max()) for one, other in zip(ours, theirs, strict=True))
    if not difference <= LARGEST_DIFFERENCE:
        raise UserError(
            f"--output: {path.name}: expected embeddings in PyTorch that differ by at most {LARGEST_DIFFERENCE:.0e}; "
            f"found a difference of {difference:.1e}. The export was removed. Please report this as a bug."
        )
    return f"Verified in PyTorch: embeddings differ by at most {difference:.1e}."
