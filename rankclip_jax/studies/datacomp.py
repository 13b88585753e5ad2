"""DataComp's 38 datasets as the report of a study: the tasks of a run, and the columns of the main table."""

from collections.abc import Mapping, Sequence
from typing import Any

from rankclip_jax.input_pipeline.files import read_json
from rankclip_jax.settings import recipe_files

_SUITE = recipe_files.FOLDER / "suites" / "datacomp.json"
_METRICS = {"zero_shot": "zero_shot/top_1", "retrieval": "retrieval/mean_recall_1"}
_COLUMNS = {
    "ImageNet": "ImageNet",
    "shifts": "ImageNet dist. shifts",
    "VTAB": "VTAB",
    "retrieval": "Retrieval",
}


def tasks(folder: str) -> dict[str, dict[str, Any]]:
    """Returns the tasks by name, for ``config.evaluation.tasks``.

    Args:
      folder: the folder of DataComp's evaluation datasets, as its script downloads them.
    """
    return {
        entry["name"]: {key: value for key, value in entry.items() if key != "name"}
        | {"path": f"{folder}/{entry['path']}"}
        for entry in read_json(_SUITE)["tasks"]
    }


def report() -> Mapping[str, Sequence[str]]:
    """Returns the columns: top-1 accuracy, and recall at 1, each averaged over the datasets of one kind."""
    content = read_json(_SUITE)
    kinds = {entry["name"]: entry["task"] for entry in content["tasks"]}
    return {
        column: [f"{name}/{_METRICS[kinds[name]]}" for name in content["averages"][average] if kinds[name] in _METRICS]
        for column, average in _COLUMNS.items()
    }
