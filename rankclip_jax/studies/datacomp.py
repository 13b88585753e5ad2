"""Studies of pretraining data, which report DataComp's 38 datasets: the tasks of a run, and the definition."""

from collections.abc import Mapping, Sequence
from typing import Any

from rankclip_jax.input_pipeline.files import read_json
from rankclip_jax.settings import recipe_files
from rankclip_jax.studies.arms import LENGTHS, every_arm, every_figure, shared_stages
from rankclip_jax.studies.definition import Study

_SUITE = recipe_files.FOLDER / "suites" / "datacomp.json"
_METRICS = {"zero_shot": "zero_shot/top_1", "retrieval": "retrieval/mean_recall_1"}
_COLUMNS = {
    "ImageNet": "ImageNet",
    "shifts": "ImageNet dist. shifts",
    "VTAB": "VTAB",
    "retrieval": "Retrieval",
}


_GRADIENTS_EVERY = 5000  # steps


def study(title: str, setting: str, length: int, examples: int, rates: Sequence[float]) -> Study:
    """Returns the study of the built-in objectives, tuned on retrieval among the validation data.

    Args:
      title: its title.
      setting: that of the length of a run, ``train.steps`` or ``train.epochs``.
      length: of a run.
      examples: seen in a run.
      rates: the learning rates to try.
    """
    return Study(
        title=title,
        baseline="clip",
        arms=every_arm(setting, length, _GRADIENTS_EVERY),
        shared=shared_stages(*rates),
        choose_by=("retrieval/image_to_text/recall_10", "retrieval/text_to_image/recall_10"),
        report=report(),
        report_tasks=tuple(tasks("")),
        lengths=LENGTHS,
        figures=every_figure("ImageNet", examples),
    )


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
