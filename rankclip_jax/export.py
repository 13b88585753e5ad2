"""Writes a run's weights for PyTorch, reads them back there, and compares.

python -m rankclip_jax.export --workdir DIR [--step N] --format open_clip|hugging_face|rankclip --output PATH
"""

import contextlib
import tempfile
from pathlib import Path

from absl import flags

from rankclip_jax.cli import entry
from rankclip_jax.cli.flags import define_recipe
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import printable

define_recipe()
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
_STEP = flags.DEFINE_integer("step", None, "checkpoint to export; the newest unless given")
_FORMAT = flags.DEFINE_string("format", None, "open_clip, hugging_face or rankclip")
_OUTPUT = flags.DEFINE_string("output", None, "file to write (.safetensors, .pt), or folder (hugging_face)")
_WEIGHTS = flags.DEFINE_enum("weights", "latest", ["latest", "ema"], "the weights, or their moving average")

_SUFFIXES = {"open_clip": ".safetensors", "hugging_face": "", "rankclip": ".pt"}


def main() -> None:
    """Exports what the flags name; nothing is kept that does not read back as it should."""
    workdir, form, output = _check_flags()
    from rankclip_jax.interop import exporting, loading  # after the flags are read, since importing JAX takes a second

    try:
        weights = loading.read(workdir, step=_STEP.value, weights=_WEIGHTS.value)
    except UserError as error:
        raise UserError(f"--workdir: {error}".replace("--workdir: --", "--")) from error
    made = [path for path in (output.parent, *output.absolute().parent.parents) if not path.exists()]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as folder:
            said, lines = exporting.write(Path(folder) / output.name, output, form, weights)
            for path in Path(folder).iterdir():
                path.rename(output.parent / path.name)
    except BaseException as error:
        with contextlib.suppress(OSError):  # somebody else may have put something there
            for path in made:
                path.rmdir()
        if isinstance(error, OSError):
            raise UserError(
                f"--output: {output} cannot be written ({error.strerror or error}). Nothing of it is kept. Make room, "
                "or name another path."
            ) from error
        raise
    print(f"Wrote {printable(output)}. {said}")
    print("\n".join(lines))


def _check_flags() -> tuple[Path, str, Path]:
    """The run's folder, the format and the output, once all flags are what they can be."""
    workdir = entry.path_flag(_WORKDIR, "Name a run's folder, such as --workdir runs/demo.")
    if _FORMAT.value not in _SUFFIXES:
        found = "not given" if _FORMAT.value is None else f"unknown value {_FORMAT.value!r}"
        raise UserError(f"--format: {found}; choose from {', '.join(_SUFFIXES)}.")
    suffix = _SUFFIXES[_FORMAT.value]
    output = entry.local_path(_OUTPUT, f"Name what to write, such as --output exported{suffix}")
    if output.is_dir() and suffix:
        raise UserError(f"--output: {output} is a folder. Name a file to write, such as {output / f'exported{suffix}'}")
    if suffix and output.suffix != suffix:
        raise UserError(f"--output: {output}: expected a name that ends in {suffix} for --format {_FORMAT.value}.")
    if output.exists():
        raise UserError(f"--output: {output} exists already, and nothing is overwritten. Name another.")
    entry.check_can_be_written("output", output)
    return workdir, _FORMAT.value, output


if __name__ == "__main__":
    entry.run(main)
