"""Evaluation results of a run: a JSON file for each step, a file with the metrics' directions, and a text table."""

import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import number, read_json, write_atomically

_LOGGER = logging.getLogger(__name__)


def path_of(workdir: Path, step: int) -> Path:
    """Returns the path of a step's results."""
    return workdir / "evaluation" / f"{step}.json"


def write(workdir: Path, step: int, metrics: Sequence[Metric]) -> Path:
    """Merges metrics into the step's results: earlier results of other metrics stay; undefined values are null."""
    path = path_of(workdir, step)
    path.parent.mkdir(exist_ok=True)  # without parents: a missing run folder must not be created here
    for file, values in (
        (path, {metric.name: metric.value for metric in metrics}),
        (_directions_path(workdir), {metric.name: metric.higher_is_better for metric in metrics}),
    ):
        write_atomically(file, json.dumps(read(file) | values, indent=2, allow_nan=False) + "\n")
    if new := {metric.name: metric.samples for metric in metrics if metric.samples is not None}:
        content, arrays = io.BytesIO(), cast(dict[str, Any], samples(workdir, step) | new)
        np.savez_compressed(content, **arrays)
        write_atomically(_samples_path(workdir, step), content.getvalue())
    return path


def samples(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """Returns the values of a step's metrics for each query, by name: see `Metric`; empty if there are none."""
    path = _samples_path(workdir, step)
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # NumPy raises many types on damaged files
        _LOGGER.warning("%s: not a file of samples (%s); ignoring it", path, error)
        return {}


def _samples_path(workdir: Path, step: int) -> Path:
    return workdir / "evaluation" / f"{step}.npz"


def directions(workdir: Path) -> dict[str, bool | None]:
    """Returns whether a higher value of each metric is better; None: neither direction is."""
    return {name: None if value is None else bool(value) for name, value in read(_directions_path(workdir)).items()}


def _directions_path(workdir: Path) -> Path:
    return workdir / "evaluation" / "higher_is_better.json"


def format_table(metrics: Sequence[Metric]) -> str:
    """Formats metrics as a text table, with shares as percentages."""
    width = max(len(metric.name) for metric in metrics)
    return "\n".join(f"  {metric.name:<{width}}  {_format(metric)}" for metric in metrics)


def _format(metric: Metric) -> str:
    if metric.value is None:
        return "undefined for these data"
    if metric.unit == "share":
        return f"{metric.value:8.2%}"
    return f"{metric.value:8,.0f}" if metric.unit in ("pairs", "count") else f"{metric.value:8.4f}"


def read(path: Path) -> dict[str, float | None]:
    """Reads results by name; empty if the file is missing or not in the format of an evaluation."""
    if not path.exists():
        return {}
    try:
        content = read_json(path)
    except (OSError, UserError):
        content = {"": ""}
    if all(value is None or number(value) is not None for value in content.values()):
        return content
    _LOGGER.warning("%s: not a file of evaluation results; ignoring it (the next evaluation overwrites it)", path)
    return {}
