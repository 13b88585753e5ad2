"""Results of a study's runs: one line of a JSON Lines file for each run."""

import base64
import binascii
import dataclasses
import fcntl
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.monitoring.json_lines import read_objects

NAME = "results.jsonl"


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of one run.

    Args:
      run: the run's name.
      digest: of the settings, see `plan.digest`.
      data: the identity of the training data.
      settings: the settings on top of the recipe's.
      metrics: the final evaluation, by name; empty if the run failed.
      history: values over training, by name, as (step, value) pairs.
      arrays: values of each query by the metric's name, and those of the snapshot; float16.
      captions: of the snapshot, see `snapshot.Snapshot`; empty: there is none.
      seconds: that all attempts took, evaluations included.
      step_seconds: median time of a step.
      failed: why the run has no result; empty: it has one.
      provenance: date, version and device.
    """

    run: str
    digest: str
    data: str
    settings: Mapping[str, Any]
    metrics: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    history: Mapping[str, Sequence[tuple[int, float]]] = dataclasses.field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    captions: Sequence[str] = ()
    seconds: float = 0.0
    step_seconds: float = 0.0
    failed: str = ""
    provenance: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def mean(self, names: Sequence[str]) -> float | None:
        """Returns the mean of some metrics; None: one of them is missing or undefined."""
        values = [self.metrics.get(name) for name in names]
        return None if None in values else float(np.mean(cast(list[float], values)))

    def samples(self, names: Sequence[str]) -> np.ndarray | None:
        """Returns values for each query whose mean is that of some metrics: float64 ``[n]``; None: unknown.

        Metrics of as many queries are averaged for each query; others are queries of their own, of equal weight.
        """
        if any(name not in self.arrays for name in names):
            return None
        values = [np.asarray(self.arrays[name], np.float64) for name in names]
        if len({len(each) for each in values}) == 1:
            return np.mean(values, axis=0)
        total = sum(map(len, values))
        return np.concatenate([each * total / len(each) / len(values) for each in values])


def read(path: Path) -> dict[str, Result]:
    """Returns the results in a file by the run's name; of several with the same name, the last.

    Raises:
      UserError: a line is JSON, but not of a result.
    """
    results = {}
    for line in read_objects(path):
        try:
            fields = {field.name: line[field.name] for field in dataclasses.fields(Result) if field.name in line}
            result = Result(**fields | {"arrays": _unpacked(line.get("arrays", ""))})
        except (TypeError, ValueError, binascii.Error, KeyError, OSError) as error:
            raise UserError(
                f"{path}: the line of {line.get('run', 'a run')!r} is damaged ({error}). Remove the line; the run will "
                "be repeated."
            ) from error
        results[result.run] = result
    return results


def append(path: Path, result: Result) -> None:
    """Appends a result to a file, at once or not at all; several processes may do so at a time."""
    line = json.dumps(dataclasses.asdict(result) | {"arrays": _packed(result.arrays)}, allow_nan=False)
    with path.open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        end = file.seek(0, os.SEEK_END)
        starts_line = end == 0 or os.pread(file.fileno(), 1, end - 1) == b"\n"
        content = ("" if starts_line else "\n") + line + "\n"  # the line of a process that was killed stays cut off
        written = file.write(content.encode())
        if written < len(content.encode()):
            file.truncate(end)
            raise OSError(f"{path}: the disk is full")
        os.fsync(file.fileno())


def _packed(arrays: Mapping[str, np.ndarray]) -> str:
    content = io.BytesIO()
    np.savez_compressed(content, **cast(dict[str, Any], {name: np.float16(x) for name, x in arrays.items()}))
    return base64.b64encode(content.getvalue()).decode("ascii")


def _unpacked(text: str) -> dict[str, np.ndarray]:
    if not text:
        return {}
    with np.load(io.BytesIO(base64.b64decode(text, validate=True)), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
