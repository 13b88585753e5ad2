"""Tasks: which evaluation of which dataset, as ``config.evaluation.tasks`` and the files of suites say it.

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

_PATHS = ("path", "classnames", "templates")  # in which ~ is the home folder


class _Wording:
    """Sentences or names: a list, a file, or the name of a list that is published."""

    def __init__(self, example: str) -> None:
        self._example = example

    def __str__(self) -> str:
        return f"a list such as {self._example}, a file or a key of clip-benchmark"

    def check(self, flag: str, value: Any) -> None:
        """Raises UserError for anything else."""
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
    """One evaluation of one dataset.

    Args:
      name: of the result; each of a suite, or of a run, differs.
      evaluation: what is measured, with its options.
    """

    section = "evaluation.tasks.NAME"

    name: str
    evaluation: Evaluation
    task: str = setting("", "which evaluation, or one of your own as `package.module:Name`", fixed=False)
    path: str = setting("", "of the dataset; empty: the run's validation data", fixed=False)
    format: str = setting(
        "", "how the dataset is laid out; empty: as its files tell", Choice(("", *FORMATS)), fixed=False
    )
    split: str = setting("test", "the split that is evaluated on", fixed=False)
    classnames: Any = setting((), "of its classes; empty: the dataset's own", _Wording('["cat", "dog"]'), fixed=False)
    templates: Any = setting(
        (), "sentences for classes; empty: the dataset's own", _Wording('["a photo of a {}"], or with {c}'), fixed=False
    )
    title: str = setting("", "what tables call the dataset; empty: the task's name", fixed=False)
    main_metric: str = setting(
        "", "the one that stands for the dataset, by its public name; empty: the first", fixed=False
    )
    every_steps: int = setting(0, "during training; 0: as `config.evaluation.every_steps`", COUNT_OR_ZERO, fixed=False)

    @property
    def public_task(self) -> str:
        """What CLIP_benchmark calls the evaluation, or else its name here."""
        return self.evaluation.public_name or self.task

    def open(self, folder: Path, wording_folder: Path) -> Data:
        """The dataset, of which nothing is decoded.

        Args:
          folder: that the path begins from.
          wording_folder: that files of names and templates begin from.

        Raises:
          UserError: it is not there, damaged, or does not hold what the evaluation needs.
        """
        wording = ClassPrompts(self.classnames or "", self.templates or "", wording_folder)
        splits = [split for split in (self.split, self.evaluation.training_split) if split]
        data = Data(*(open_set(self.format, folder / self.path, split, wording) for split in splits))
        self.evaluation.check(data)
        return data


def parse(where: str, name: str, entry: Any) -> Task:
    """A task from a dictionary.

    Args:
      where: it stands, for errors.
      name: of the task.
      entry: the fields of `Task`, and the options of the evaluation that it names.

    Raises:
      UserError: it says what no task can.
    """
    if not isinstance(entry, Mapping):
        raise UserError(f"{where}: expected an object with settings; found {entry!r}.")
    if "task" not in entry:
        raise UserError(f"{where}: lacks 'task'; choose from {', '.join(EVALUATIONS)}.")
    if not isinstance(entry["task"], str) or entry["task"] not in EVALUATIONS:
        problem = f"unknown task {entry['task']!r}; choose from {', '.join(EVALUATIONS)}"
        is_own = isinstance(entry["task"], str) and ":" in entry["task"]
        raise UserError(f"{where}: {problem}{_HOW_TO_LOAD if is_own else ''}.")
    kind = EVALUATIONS[entry["task"]]
    known = Task.declared() | kind.declared()
    if unknown := sorted(set(map(str, entry)) - known.keys()):
        raise UserError(f"{where}: unknown field {unknown[0]!r}; choose from {', '.join(known)}.")
    for key, value in entry.items():
        known[key].check(f"{where}: {key}", value)
    values: dict[str, Any] = dict(entry)
    for key in _PATHS:
        if isinstance(values.get(key), str):
            values[key] = os.path.expanduser(values[key])
    if not re.fullmatch(r"\w[\w/.-]*", name) or ".." in name:
        raise UserError(f"{where}: name: expected letters, digits and any of _ / . -; found {name!r}.")
    options = kind(**{key: value for key, value in values.items() if key in kind.declared()})
    return Task(name, options, **{key: value for key, value in values.items() if key in Task.declared()})


_HOW_TO_LOAD = ", or your own, which a recipe must name or import: --config RECIPE"


def names_of(tasks: Sequence[Task]) -> list[str]:
    """The names as files have them."""
    return [task.name.replace("/", "-") for task in tasks]
