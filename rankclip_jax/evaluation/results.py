"""Results of evaluations: a file for each step, one that says which way each metric is better, and a table to read."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import number, read_json, write_atomically

_LOGGER = logging.getLogger(__name__)


def path_of(workdir: Path, step: int) -> Path:
    """The file of a step's results."""
    return workdir / "evaluation" / f"{step}.json"


def write(workdir: Path, step: int, metrics: Sequence[Metric]) -> Path:
    """Adds to the step's results: what was measured before and is not now stays; undefined ones are null."""
    path = path_of(workdir, step)
    path.parent.mkdir(exist_ok=True)  # and not a run's folder, which would lack all else
    for file, values in (
        (path, {metric.name: metric.value for metric in metrics}),
        (_directions_path(workdir), {metric.name: metric.higher_is_better for metric in metrics}),
    ):
        write_atomically(file, json.dumps(read(file) | values, indent=2, allow_nan=False) + "\n")
    return path


def directions(workdir: Path) -> dict[str, bool | None]:
    """Whether a higher value of each metric is better; None: neither way is."""
    return {name: None if value is None else bool(value) for name, value in read(_directions_path(workdir)).items()}


def _directions_path(workdir: Path) -> Path:
    return workdir / "evaluation" / "higher_is_better.json"


def format_table(metrics: Sequence[Metric]) -> str:
    """A table to read: percentages for shares, plain numbers for what is none."""
    width = max(len(metric.name) for metric in metrics)
    return "\n".join(f"  {metric.name:<{width}}  {_format(metric)}" for metric in metrics)


def _format(metric: Metric) -> str:
    if metric.value is None:
        return "undefined for these data"
    if metric.unit == "share":
        return f"{metric.value:8.2%}"
    return f"{metric.value:8,.0f}" if metric.unit in ("pairs", "count") else f"{metric.value:8.4f}"


def read(path: Path) -> dict[str, float | None]:
    """The results in a file by name; none where there is no such file, or another's."""
    if not path.exists():
        return {}
    try:
        found = read_json(path)
    except (OSError, UserError):
        found = {"": ""}
    if all(value is None or number(value) is not None for value in found.values()):
        return found
    _LOGGER.warning("%s is not what an evaluation writes: it is not used, and is written anew by the next one", path)
    return {}
