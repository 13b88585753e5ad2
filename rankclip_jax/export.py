"""Exports a run's weights for PyTorch, and verifies that they read back unchanged.

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
_STEP = flags.DEFINE_integer("step", None, "step of the checkpoint to export; default: the newest")
_FORMAT = flags.DEFINE_string("format", None, "format of the output: open_clip, hugging_face or rankclip")
_OUTPUT = flags.DEFINE_string(
    "output", None, "file to write (.safetensors for open_clip, .pt for rankclip), or folder (hugging_face)"
)
_WEIGHTS = flags.DEFINE_enum(
    "weights", "latest", ["latest", "ema"], "which weights to export: the latest, or their EMA"
)

_SUFFIXES = {"open_clip": ".safetensors", "hugging_face": "", "rankclip": ".pt"}


def main() -> None:
    """Exports the weights; keeps the output only if it reads back unchanged."""
    workdir, file_format, output = _check_flags()
    from rankclip_jax.interop import exporting, loading  # after the flags are read, since importing JAX takes a second

    try:
        weights = loading.read(workdir, step=_STEP.value, weights=_WEIGHTS.value)
    except UserError as error:
        raise UserError(f"--workdir: {error}".replace("--workdir: --", "--")) from error
    created = [path for path in (output.parent, *output.absolute().parent.parents) if not path.exists()]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".export-") as folder:
            summary, lines = exporting.write(Path(folder) / output.name, output, file_format, weights)
            for path in Path(folder).iterdir():
                path.rename(output.parent / path.name)
    except BaseException as error:
        with contextlib.suppress(OSError):  # another process may have added files there
            for path in created:
                path.rmdir()
        if isinstance(error, OSError):
            raise UserError(
                f"--output: {output} cannot be written ({error.strerror or error}). No partial output is left. Free "
                "some space, or use another path."
            ) from error
        raise
    print(f"Wrote {printable(output)}. {summary}")
    print("\n".join(lines))


def _check_flags() -> tuple[Path, str, Path]:
    """Returns the workdir, the format and the output path, after checking all flags."""
    workdir = entry.path_flag(_WORKDIR, "Use the folder of a run, such as --workdir runs/demo.")
    if _FORMAT.value not in _SUFFIXES:
        problem = "not given" if _FORMAT.value is None else f"unknown value {_FORMAT.value!r}"
        raise UserError(f"--format: {problem}; choose from {', '.join(_SUFFIXES)}.")
    suffix = _SUFFIXES[_FORMAT.value]
    output = entry.local_path(_OUTPUT, f"Use the path to write, such as --output exported{suffix}")
    if output.is_dir() and suffix:
        raise UserError(
            f"--output: {output} is a folder; expected a file. Use a file name, such as {output / f'exported{suffix}'}"
        )
    if suffix and output.suffix != suffix:
        raise UserError(f"--output: {output}: expected a name that ends in {suffix} for --format {_FORMAT.value}.")
    if output.exists():
        raise UserError(f"--output: {output} already exists, and export never overwrites. Use another path.")
    entry.check_can_be_written("output", output)
    return workdir, _FORMAT.value, output


if __name__ == "__main__":
    entry.run(main)
