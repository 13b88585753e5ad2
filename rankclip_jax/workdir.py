"""The folder of a run: its settings, its name, and whether it may be used."""

import json
import tempfile
from pathlib import Path

from ml_collections import ConfigDict

from input_pipeline.errors import UserError
from rankclip_jax import settings


def check(workdir: Path, config: ConfigDict) -> None:
    """Raises UserError where the folder cannot be written or holds a run with other settings; writes nothing."""
    existing = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise UserError(f"--workdir: {workdir} cannot be written ({error}). Name another folder.") from error
    if (workdir / "config.json").exists():
        lines = settings.differences(read_config(workdir), settings.to_dict(config))
        if lines:
            raise UserError(
                f"--workdir: {workdir} holds a run with other settings: {'; '.join(lines)}. "
                "Name another --workdir for the new run, or give these settings their old values to go on with the old."
            )


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run has saved anything in the folder."""
    return any((workdir / "checkpoints").glob("[0-9]*"))


def write_config(workdir: Path, config: ConfigDict) -> None:
    """Creates the folder if need be and writes ``config.json``."""
    workdir.mkdir(parents=True, exist_ok=True)
    temporary = workdir / "config.json.partial"
    temporary.write_text(json.dumps(settings.to_dict(config), indent=2) + "\n", encoding="utf8")
    temporary.replace(workdir / "config.json")


def read_config(workdir: Path) -> dict:
    """The settings of the run in the folder.

    Raises:
      UserError: there is no run, or its settings cannot be read.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise UserError(
            f"--workdir: no run at {workdir} (no {path.name} there). "
            "Train one with: python -m rankclip_jax.train --config configs/demo.py"
        )
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except ValueError as error:
        raise UserError(f"--workdir: {path} is not JSON: {error}. Restore it, or name another --workdir.") from error
