"""Results as other programs read them: CLIP_benchmark's JSON for each task, DataComp's ``eval_results.jsonl``.

| ours | theirs |
|---|---|
| `zero_shot/top_1`, `top_5`, `mean_per_class` | `acc1`, `acc5`, `mean_per_class_recall` |
| `retrieval/text_to_image/recall_k`, `image_to_text` | `image_retrieval_recall@k`, `text_retrieval_recall@k` |
| `linear_probe/top_1`, `mean_per_class` | `lp_acc1`, `lp_mean_per_class_recall` |
| the mean of both ways' recall at 1 | `mean_recall@1` |
| `compositionality/accuracy` | `acc` |
| `association/jaccard`, `jaccard_5` | `avg_jaccard_score`, `jaccard_score_5` (DataComp's) |

What they have no name for keeps ours.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import number, read_json, write_atomically

LINES = "eval_results.jsonl"
_TASKS = {
    "zero_shot": "zeroshot_classification",
    "retrieval": "zeroshot_retrieval",
    "linear_probe": "linear_probe",
    "compositionality": "image_caption_selection",
}
_NAMES = {
    "zero_shot/top_1": "acc1",
    "zero_shot/top_5": "acc5",
    "zero_shot/mean_per_class": "mean_per_class_recall",
    "zero_shot/mean_average_precision": "mean_average_precision",
    "linear_probe/top_1": "lp_acc1",
    "linear_probe/mean_per_class": "lp_mean_per_class_recall",
    "compositionality/accuracy": "acc",
    "association/jaccard": "avg_jaccard_score",
    **{f"association/jaccard_{size}": f"jaccard_score_{size}" for size in ("5", "6", "10", "12", "5-6", "10-12")},
    **{f"retrieval/text_to_image/recall_{k}": f"image_retrieval_recall@{k}" for k in (1, 5, 10)},
    **{f"retrieval/image_to_text/recall_{k}": f"text_retrieval_recall@{k}" for k in (1, 5, 10)},
}


def result(
    *, dataset: str, model: str, pretrained: str, task: str, metrics: Sequence[Metric], provenance: dict[str, Any]
) -> dict[str, Any]:
    """An object as CLIP_benchmark writes it, with what it comes from beside it.

    Args:
      dataset: its name.
      model: the preset's name.
      pretrained: where the weights are.
      task: a key of `tasks.TASKS`.
      metrics: what was measured.
      provenance: what makes it the result of these weights and data.
    """
    found = {_NAMES.get(metric.name, metric.name): metric.value for metric in metrics}
    if task == "retrieval":
        both = [metric.value or 0.0 for metric in metrics if metric.name.endswith("recall_1")]
        found = {"mean_recall@1": sum(both) / 2, **found}
    return {
        "dataset": dataset,
        "model": model,
        "pretrained": pretrained,
        "task": _TASKS.get(task, task),
        "metrics": found,
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
    nothing = result(dataset=dataset, model=model, pretrained=pretrained, task="", metrics=[], provenance={})
    return nothing | {"task": _TASKS.get(task, task), "error": error}


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
    return found if is_whole and isinstance(found.get("provenance"), dict) else None


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
