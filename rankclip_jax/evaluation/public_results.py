"""Results in public formats: CLIP_benchmark's JSON for each task, and DataComp's ``eval_results.jsonl``.

Metrics have their public names, or their own names where there is none.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import number, read_json, write_atomically

LINES = "eval_results.jsonl"


def result(
    *, dataset: str, model: str, pretrained: str, task: str, metrics: Sequence[Metric], provenance: dict[str, Any]
) -> dict[str, Any]:
    """Returns a result in CLIP_benchmark's format, with its provenance added.

    Args:
      dataset: the dataset's name.
      model: the preset's name.
      pretrained: the path of the weights.
      task: the evaluation's name, in CLIP_benchmark where it has one.
      metrics: the metrics.
      provenance: the identity of the weights, the task and the data.
    """
    named = {metric.public_name or metric.name: metric for metric in metrics}
    return {
        "dataset": dataset,
        "model": model,
        "pretrained": pretrained,
        "task": task,
        "metrics": {name: metric.value for name, metric in named.items()},
        "higher_is_better": {name: metric.higher_is_better for name, metric in named.items()},
        "language": "en",
        "provenance": provenance,
    }


def failed(
    before: dict[str, Any] | None, error: str, *, dataset: str, model: str, pretrained: str, task: str, weights: str
) -> dict[str, Any]:
    """Returns a result that records a failed evaluation, in the same format.

    An earlier result of the same weights is kept, with the error added.

    Args:
      before: the previous content of the file.
      error: the reason of the failure.
      dataset: see `result`.
      model: see `result`.
      pretrained: see `result`.
      task: see `result`.
      weights: the digest of the evaluated weights.
    """
    if before is not None and before.get("provenance", {}).get("weights") == weights:
        return before | {"error": error}
    empty = result(dataset=dataset, model=model, pretrained=pretrained, task=task, metrics=[], provenance={})
    return empty | {"error": error}


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes a result; undefined metrics are null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read(path: Path) -> dict[str, Any] | None:
    """Reads a result; None: missing or damaged."""
    try:
        content = read_json(path)
    except (OSError, UserError):
        return None
    metrics = content.get("metrics")
    is_valid = isinstance(metrics, dict) and all(x is None or number(x) is not None for x in metrics.values())
    return (
        content
        if is_valid and all(isinstance(content.get(key), dict) for key in ("provenance", "higher_is_better"))
        else None
    )


def main_metric(content: dict[str, Any], name: str) -> float | None:
    """Returns the dataset's main metric: the named one, or the first."""
    metrics = content["metrics"]
    return metrics.get(name) if name else next(iter(metrics.values()), None)


def write_lines(path: Path, results: dict[str, tuple[str, dict[str, Any], str]]) -> None:
    """Writes DataComp's file from each task's title, result and main metric, by the task's name."""
    lines = [
        json.dumps(
            {
                "key": name,
                "dataset": title or name,
                "metrics": content["metrics"] | {"main_metric": main_metric(content, main)},
            }
        )
        for name, (title, content, main) in results.items()
    ]
    write_atomically(path, "".join(line + "\n" for line in lines))
