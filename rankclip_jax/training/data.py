"""The data of a run: opened, sampled for readability, and checked to be the same on all processes and on resume."""

import hashlib
import json
from pathlib import Path

from ml_collections import ConfigDict

from rankclip_jax import input_pipeline
from rankclip_jax.cli.console import say
from rankclip_jax.distributed.processes import is_primary_process
from rankclip_jax.input_pipeline import files
from rankclip_jax.input_pipeline.array_record import PreparedSplit
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.loader import check_readable
from rankclip_jax.input_pipeline.source import Mixture, Source, identity_of
from rankclip_jax.models.presets import preset_of
from rankclip_jax.settings import schema

NAME = "data.json"  # in a workdir: the identity of the training data
_MAY_CHANGE = {"image sizes"}  # damaged images may be fixed


def open_data(config: ConfigDict) -> tuple[Source, Source | None]:
    """Opens the training data and, if configured, the validation data, and checks that a sample is readable."""
    source = _open(config, "train")
    return source, _open(config, "validation") if input_pipeline.has_validation(config.data) else None


def _open(config: ConfigDict, split: str) -> Source:
    image_size = preset_of(config.model).vision.image_size
    source = input_pipeline.open_source(config.data, split, image_size=image_size, seed=config.seed)
    parts = [part for part in _parts(source) if isinstance(part, PreparedSplit)]
    damaged, limit = sum(part.damaged_records for part in parts), config.data.max_unreadable_fraction
    if damaged > limit * len(source):
        reasons = [shard.reason for part in parts for shard in part.damaged]
        more = f", and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        raise UserError(
            f"config.data.{split}: {damaged:,} of {len(source):,} records are in damaged shards: "
            f"{'; '.join(reasons[:3])}{more}. To train without them, use "
            "--config.data.max_unreadable_fraction=FRACTION"
        )
    check_readable(source, f"config.data.{split}", config.data.max_pixels)
    return source


def shared_facts(config: ConfigDict, source: Source) -> dict[str, object]:
    """Returns the facts that must agree across the processes of a run: settings and the identity of the data."""
    digest = hashlib.sha256(json.dumps(identity_of(source)).encode()).hexdigest()
    values = dict(schema.flatten(schema.to_dict(config)))
    shared_settings = {
        f"config.{name}": value
        for name, value in values.items()
        if not name.startswith(("data.threads", "data.workers"))
    }
    return {**shared_settings, "training data": f"{len(source):,} records, digest {digest[:16]}"}


def check_unchanged(workdir: Path, source: Source) -> None:
    """Checks that the data are those that the run in a workdir started with, if it recorded them.

    Raises:
      UserError: the number of records, the captions or the image names differ.
    """
    path, now = workdir / NAME, identity_of(source)
    if not path.exists():
        return
    before = files.read_json(path, list)
    lines = [f"{len(before)} datasets before, {len(now)} now"] if len(before) != len(now) else []
    notes: list[str] = []
    for number, (old, new) in enumerate(zip(before, now, strict=False), 1):
        prefix = f"dataset {number}: " if len(now) > 1 else ""
        for name in new:
            was = old.get(name) if isinstance(old, dict) else None
            if was != new[name]:
                numbers = f": {was:,} before, {new[name]:,} now" if isinstance(was, int) else " differ"
                (notes if name in _MAY_CHANGE else lines).append(f"{prefix}{name}{numbers}")
    if lines:
        raise UserError(
            f"--workdir: the run in {workdir} was trained on different data than config.data.train has now: "
            f"{'; '.join(lines)}. Restore the data to resume the run, or use another --workdir. To resume with the "
            f"changed data anyway, remove {path}."
        )
    if notes and is_primary_process():
        say(f"note: the training data have changed since the run started: {'; '.join(notes)}")


def write_identity(workdir: Path, source: Source) -> None:
    """Writes the identity of the data, for `check_unchanged`, on the primary process."""
    if is_primary_process():
        files.write_atomically(workdir / NAME, json.dumps(identity_of(source), indent=2) + "\n")


def _parts(source: Source | Mixture) -> tuple[Source, ...]:
    return source.parts if isinstance(source, Mixture) else (source,)
