"""Writes a run's weights for PyTorch, reads them back there, and compares.

python -m rankclip_jax.export --workdir DIR [--step N] --format open_clip|hugging_face|rankclip --output PATH
"""

import importlib.util
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from input_pipeline.errors import UserError
from rankclip_jax import command_line

if TYPE_CHECKING:
    from rankclip_jax.interop.loading import Weights
    from rankclip_jax.interop.open_clip import Recipe

_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
_STEP = flags.DEFINE_integer("step", None, "checkpoint to export; the newest unless given")
_FORMAT = flags.DEFINE_string("format", None, "open_clip, hugging_face or rankclip")
_OUTPUT = flags.DEFINE_string("output", None, "file to write (.safetensors, .pt), or folder (hugging_face)")

_SUFFIXES = {"open_clip": ".safetensors", "hugging_face": "", "rankclip": ".pt"}
_LIBRARIES = {"open_clip": "open_clip", "hugging_face": "transformers", "rankclip": "open_clip"}  # that read it back
LARGEST_DIFFERENCE = 1e-4


def main() -> None:
    workdir, form, output = _check_flags()
    from rankclip_jax.interop import hugging_face, loading, open_clip  # after the flags are read: it imports JAX

    try:
        weights = loading.read(workdir, step=_STEP.value)
    except UserError as error:
        raise UserError(f"--workdir: {error}") from error
    model, variables = weights.model, weights.variables
    recipe = open_clip.recipe(weights.name, model)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as folder:
        written = Path(folder) / output.name
        if form == "hugging_face":
            hugging_face.write(written, model, variables)
        elif form == "open_clip":
            open_clip.write(written, weights.name, model, variables)
            open_clip.write_config(written.parent, recipe)
        else:
            open_clip.write_release(written, weights.name, model, variables)
            open_clip.write_config(written.parent, recipe)
        said = _compare(written, form, weights, recipe)
        for path in Path(folder).iterdir():
            path.rename(output.parent / path.name)
    print(f"Wrote {output}. {said}")
    if form == "hugging_face":
        print(f"model = transformers.CLIPModel.from_pretrained({str(output)!r})")
        print(f"processor = transformers.CLIPProcessor.from_pretrained({str(output)!r})")
        if model.learn_logit_bias:
            print("note: CLIPModel has no place for the learned bias, which embeddings do not need; it is left out")
    else:
        print(open_clip.command(output, recipe))


def _check_flags() -> tuple[Path, str, Path]:
    """The run's folder, the format and the output, once all flags are what they can be."""
    if _WORKDIR.value is None:
        raise UserError("--workdir: not given. Name a run's folder, such as --workdir runs/demo.")
    if _FORMAT.value not in _SUFFIXES:
        found = "not given" if _FORMAT.value is None else f"no {_FORMAT.value!r}"
        raise UserError(f"--format: {found}; there are {', '.join(_SUFFIXES)}.")
    suffix = _SUFFIXES[_FORMAT.value]
    if _OUTPUT.value is None:
        raise UserError(f"--output: not given. Name what to write, such as --output exported{suffix}")
    output = Path(_OUTPUT.value)
    if suffix and output.suffix != suffix:
        raise UserError(f"--output: {output}: expected a name that ends in {suffix} for --format {_FORMAT.value}.")
    if output.exists():
        raise UserError(f"--output: {output} exists already. Name another, or remove it first: rm -r {output}")
    return Path(_WORKDIR.value), _FORMAT.value, output


def _compare(path: Path, form: str, weights: "Weights", recipe: "Recipe") -> str:
    """Reads the file back through its library; what was found, in words.

    Raises:
      UserError: the embeddings differ by more than `LARGEST_DIFFERENCE`.
    """
    absent = [name for name in ("torch", _LIBRARIES[form]) if importlib.util.find_spec(name) is None]
    if absent:
        packages = " ".join({"open_clip": "open_clip_torch"}.get(name, name) for name in absent)
        return f"Not read back, since {' and '.join(absent)} are not installed here: pip install {packages}"

    import numpy as np

    from input_pipeline.tokenizer import tokenize
    from rankclip_jax.encoder import Encoder
    from rankclip_jax.interop import hugging_face, open_clip
    from rankclip_jax.models.clip import normalise

    preset = weights.model.preset
    side = preset.vision.image_size
    images = np.random.default_rng(0).integers(0, 256, (4, side, side, 3)).astype(np.uint8)
    texts = ["a photo of a cat", "two dogs on a beach, in the rain", "", "Ein Bild 画像 🎨"]
    pixels = np.asarray(normalise(images)).transpose(0, 3, 1, 2)
    tokens = tokenize(texts, preset.text.context_length)
    if form == "hugging_face":
        theirs = hugging_face.embeddings(path, pixels, tokens)
    else:
        theirs = open_clip.embeddings(path, recipe, pixels, tokens)
    encoder = Encoder(weights.model, weights.variables)
    ours = encoder.encode_image(list(images)), encoder.encode_text(texts)
    difference = max(float(np.abs(one - other).max()) for one, other in zip(ours, theirs, strict=True))
    if not difference <= LARGEST_DIFFERENCE:
        raise UserError(
            f"--output: {path.name} was not kept, since embeddings differ by {difference:.1e} when it is read back in "
            f"PyTorch; expected at most {LARGEST_DIFFERENCE:.0e}."
        )
    return f"Read back in PyTorch, embeddings differ by at most {difference:.1e}."


if __name__ == "__main__":
    command_line.run(main)
