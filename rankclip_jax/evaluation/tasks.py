"""Tasks: evaluations of datasets, as declared in ``config.evaluation.tasks`` and in suite files.

``{"task": "zero_shot", "path": "data/imagenet", "format": "folder", "split": "val", ...}``
"""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rankclip_jax.evaluation.association import Association
from rankclip_jax.evaluation.compositionality import Compositionality
from rankclip_jax.evaluation.evaluation import Data, Evaluation
from rankclip_jax.evaluation.linear_probe import LinearProbe
from rankclip_jax.evaluation.modalities import Consistency
from rankclip_jax.evaluation.ranking_quality import RankingQuality
from rankclip_jax.evaluation.retrieval import Retrieval
from rankclip_jax.evaluation.validation_loss import ValidationLoss
from rankclip_jax.evaluation.zero_shot import ZeroShot
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.evaluation_sets import FORMATS, open_set
from rankclip_jax.input_pipeline.evaluation_sets.wording import ClassPrompts
from rankclip_jax.input_pipeline.registry import Registry
from rankclip_jax.input_pipeline.setting import COUNT_OR_ZERO, Choice, Settings, setting
from rankclip_jax.input_pipeline.source import sampled

EVALUATIONS: Registry[Evaluation] = Registry(
    "evaluation.tasks",
    Evaluation,
    {
        "validation": ValidationLoss,
        "retrieval": Retrieval,
        "consistency": Consistency,
        "zero_shot": ZeroShot,
        "ranking": RankingQuality,
        "linear_probe": LinearProbe,
        "compositionality": Compositionality,
        "association": Association,
    },
)

_HOW_TO_LOAD = ", or use --config RECIPE with a recipe that names or imports your own"
_PATHS = ("path", "classnames", "templates")  # fields in which ~ expands to the home folder


class _Wording:
    """The values of a setting for class names or templates: a list, a file, or a key of clip-benchmark's lists."""

    def __init__(self, example: str) -> None:
        self._example = example

    def __str__(self) -> str:
        return f"a list such as {self._example}, a file or a key of clip-benchmark"

    def check(self, flag: str, value: Any) -> None:
        """Raises UserError for any other value."""
        words = [value] if isinstance(value, str) else value
        if (
            value == ""
            or not isinstance(words, list | tuple)
            or not all(isinstance(word, str) for word in words)
            or value == []
        ):
            raise UserError(f"{flag}: expected {self}; found {value!r}.")


@dataclasses.dataclass(frozen=True)
class Task(Settings):
    """An evaluation of a dataset.

    Args:
      name: the name of its results, unique within a suite or run.
      evaluation: the evaluation with its options.
    """

    section = "evaluation.tasks.NAME"

    name: str
    evaluation: Evaluation
    task: str = setting("", "the evaluation, or your own as `package.module:Name`", fixed=False)
    path: str = setting("", "path of the dataset; empty: the run's validation data", fixed=False)
    format: str = setting(
        "", "format of the dataset; empty: detected from its files", Choice(("", *FORMATS)), fixed=False
    )
    split: str = setting("test", "the split to evaluate on", fixed=False)
    classnames: Any = setting((), "class names; empty: the dataset's own", _Wording('["cat", "dog"]'), fixed=False)
    templates: Any = setting(
        (), "prompt templates; empty: the dataset's own", _Wording('["a photo of a {}"], or with {c}'), fixed=False
    )
    max_examples: int = setting(
        0, "evaluate on so many records, drawn at random but always the same ones; 0: all", COUNT_OR_ZERO, fixed=False
    )
    title: str = setting("", "the dataset's name in tables; empty: the task's name", fixed=False)
    main_metric: str = setting(
        "", "the dataset's main metric, by its name in the result files, such as acc1; empty: the first", fixed=False
    )
    every_steps: int = setting(
        0, "interval in training steps; 0: as `config.evaluation.every_steps`", COUNT_OR_ZERO, fixed=False
    )

    @property
    def public_task(self) -> str:
        """The evaluation's name in CLIP_benchmark, or its own name where CLIP_benchmark has none."""
        return self.evaluation.public_name or self.task

    def open(self, folder: Path, wording_folder: Path) -> Data:
        """Opens the dataset without decoding images.

        Args:
          folder: the folder to which the dataset's path is relative.
          wording_folder: the folder to which files of class names and templates are relative.

        Raises:
          UserError: the dataset is missing, damaged, or lacks what the evaluation needs.
        """
        wording = ClassPrompts(self.classnames or "", self.templates or "", wording_folder)
        splits = [split for split in (self.split, self.evaluation.training_split) if split]
        source, *train = (open_set(self.format, folder / self.path, split, wording) for split in splits)
        data = Data(sampled(source, self.max_examples) if self.max_examples else source, *train)
        self.evaluation.check(data)
        return data


def parse(where: str, name: str, entry: Any) -> Task:
    """Builds a task from a dictionary.

    Args:
      where: the location of the entry, for error messages.
      name: the task's name.
      entry: the fields of `Task`, and the options of its evaluation.

    Raises:
      UserError: the entry is not a valid task.
    """
    if not isinstance(entry, Mapping):
        raise UserError(f"{where}: expected an object with settings; found {entry!r}.")
    if "task" not in entry:
        raise UserError(f"{where}: 'task' is missing; choose from {', '.join(EVALUATIONS)}.")
    if not isinstance(entry["task"], str) or entry["task"] not in EVALUATIONS:
        problem = f"unknown task {entry['task']!r}; choose from {', '.join(EVALUATIONS)}"
        is_own = isinstance(entry["task"], str) and ":" in entry["task"]
        raise UserError(f"{where}: {problem}{_HOW_TO_LOAD if is_own else ''}.")
    kind = EVALUATIONS[entry["task"]]
    fields = Task.declared() | kind.declared()
    if unknown := sorted(set(map(str, entry)) - fields.keys()):
        raise UserError(f"{where}: unknown field {unknown[0]!r}; choose from {', '.join(fields)}.")
    for key, value in entry.items():
        fields[key].check(f"{where}: {key}", value)
    values: dict[str, Any] = dict(entry)
    for key in _PATHS:
        if isinstance(values.get(key), str):
            values[key] = os.path.expanduser(values[key])
    if not re.fullmatch(r"\w[\w/.-]*", name) or ".." in name:
        raise UserError(
            f"{where}: name: expected letters, digits and any of _ / . -, without '..'; found {name!r}. Use another "
            "name."
        )
    options = kind(**{key: value for key, value in values.items() if key in kind.declared()})
    return Task(name, options, **{key: value for key, value in values.items() if key in Task.declared()})


def names_of(tasks: Sequence[Task]) -> list[str]:
    """Returns the tasks' names as used in file names."""
    return [task.name.replace("/", "-") for task in tasks]
