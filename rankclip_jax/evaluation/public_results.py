"""Results as other programs read them: CLIP_benchmark's JSON for each task, DataComp's ``eval_results.jsonl``.

Metrics have their public names, and those that have none their own.
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
    """An object as CLIP_benchmark writes it, with what it comes from beside it.

    Args:
      dataset: its name.
      model: the preset's name.
      pretrained: where the weights are.
      task: the evaluation, by CLIP_benchmark's name where it has one.
      metrics: what was measured.
      provenance: what makes it the result of these weights and data.
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
    """What stands in the place of a result that could not be measured, in the same form.

    An earlier result of the same weights stays, and says that it could not be measured anew.

    Args:
      before: what the file held.
      error: why it failed.
      dataset: as for `result`.
      model: the same.
      pretrained: the same.
      task: the same.
      weights: the digest of the weights that were to be measured.
    """
    if before is not None and before.get("provenance", {}).get("weights") == weights:
        return before | {"error": error}
    nothing = result(dataset=dataset, model=model, pretrained=pretrained, task=task, metrics=[], provenance={})
    return nothing | {"error": error}


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes a result; numbers that are not defined are null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read(path: Path) -> dict[str, Any] | None:
    """A result that was written; None: there is none, or it is damaged."""
    try:
        found = read_json(path)
    except (OSError, UserError):
        return None
    metrics = found.get("metrics")
    is_whole = isinstance(metrics, dict) and all(x is None or number(x) is not None for x in metrics.values())
    return (
        found
        if is_whole and all(isinstance(found.get(key), dict) for key in ("provenance", "higher_is_better"))
        else None
    )


def main_metric(content: dict[str, Any], name: str) -> float | None:
    """The metric that stands for the dataset: the one named, or the first."""
    metrics = content["metrics"]
    return metrics.get(name) if name else next(iter(metrics.values()), None)


def write_lines(path: Path, found: dict[str, tuple[str, dict[str, Any], str]]) -> None:
    """DataComp's file: by the name of each task its title, its result, and the metric that stands for it."""
    lines = [
        json.dumps(
            {
                "key": name,
                "dataset": title or name,
                "metrics": content["metrics"] | {"main_metric": main_metric(content, main)},
            }
        )
        for name, (title, content, main) in found.items()
    ]
    write_atomically(path, "".join(line + "\n" for line in lines))
