"""Suites as data: JSON files that say which datasets a model is measured on, and how.

``{"name": ..., "tasks": [{"name": "cifar10", "task": "zero_shot", "format": "webdataset", "path": "cifar10"}, ...]}``
"""

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

from rankclip_jax.evaluation.tasks import TASKS
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.evaluation_sets import FORMATS
from rankclip_jax.input_pipeline.files import read_json
from rankclip_jax.settings import recipe_files

_PATHS = ("path", "classnames", "templates")  # in which ~ is the home folder


@dataclasses.dataclass(frozen=True)
class Task:
    """One dataset and one measure.

    Args:
      name: of the result, whose file has it with ``-`` for ``/``; each differs.
      task: a key of `TASKS`.
      format: a key of `FORMATS`.
      path: of the dataset, from the folder that ``--data`` names.
      title: as tables write the dataset; the name unless given.
      split: that is measured on.
      train_split: that a linear probe learns from.
      classnames: a list, or a name: see `evaluation_sets.wording.ClassPrompts`; empty: the dataset's own.
      templates: the same.
      shots: training images of each class for a linear probe; 0: all.
      shared_captions: for retrieval: captions that read the same are one caption, of which any of its images is right;
        CLIP_benchmark, and so the published figures, count each with its own image alone.
      grouped: for zero_shot: the worst group of images, by the groups that the dataset knows, is told too.
      main_metric: the one that stands for the dataset, by its public name; empty: the task's first.
    """

    name: str
    task: str
    format: str
    path: str
    title: str = ""
    split: str = "test"
    train_split: str = "train"
    classnames: str | list[str] = ""
    templates: str | list[str] = ""
    shots: int = 0
    shared_captions: bool = False
    grouped: bool = False
    main_metric: str = ""


def find(given: Path) -> Path:
    """The file of a suite: a path, or the name of one that comes with the system, as ``paper_zero_shot``.

    Raises:
      UserError: there is none.
    """
    folder = recipe_files.FOLDER / "suites"
    if given.is_file():
        return given
    if given.parent in (Path(), Path("configs/suites")) and (found := folder / f"{given.stem}.json").is_file():
        return found
    names = ", ".join(sorted(path.stem for path in folder.glob("*.json")))
    raise UserError(f"--suite: no file at {given}. Name one, or one of those that come with the system: {names}.")


def read(path: Path) -> list[Task]:
    """The tasks of a suite file, in their order.

    Raises:
      UserError: it is not JSON, or says what no suite can.
    """
    return read_whole(path)[0]


def read_whole(path: Path) -> tuple[list[Task], dict[str, list[str]]]:
    """The tasks of a suite file, and of which of them, by name, it says averages; see `read`."""
    try:
        content = read_json(path, object)
    except UserError as error:
        raise UserError(f"--suite: {error}") from error
    entries = content.get("tasks") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UserError(f'--suite: {path}: expected an object with a list "tasks" that is not empty.')
    tasks = [_task(path, number, entry) for number, entry in enumerate(entries, 1)]
    names = [task.name.replace("/", "-") for task in tasks]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"--suite: {path} has several tasks named {repeated!r}; results need different ones.")
    return tasks, _averages(path, content.get("averages", {}), [task.name for task in tasks])


def _averages(path: Path, given: Any, known: list[str]) -> dict[str, list[str]]:
    """By the name of each average its tasks; all where none is named."""
    if not isinstance(given, dict) or not all(isinstance(names, list) for names in given.values()):
        raise UserError(f"--suite: {path}: averages: expected an object with a list of tasks' names for each.")
    if unknown := [name for names in given.values() for name in names if name not in known]:
        raise UserError(f"--suite: {path}: averages: no task {unknown[0]!r}.")
    return {name: names or known for name, names in given.items()}


_WORDS = {
    "classnames": 'expected a list of names, such as ["cat", "dog"], a file or a key of clip-benchmark',
    "templates": 'expected a list of sentences, such as ["a photo of a {}"] or with {c}, a file or a key of '
    "clip-benchmark",
}


def _fits(value: Any, kind: Any) -> bool:
    """Whether a suite's value is of a field's type, and says something."""
    if isinstance(value, list):
        return kind == str | list[str] and bool(value) and all(isinstance(one, str) for one in value)
    return (
        isinstance(value, kind if isinstance(kind, type) else str)
        and value not in ("",)
        and (isinstance(value, bool) == (kind is bool))
    )


def _task(path: Path, number: int, entry: Any) -> Task:
    where = f"--suite: {path}, task {number}"
    fields = {field.name: field for field in dataclasses.fields(Task)}
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected an object; found {entry!r}.")
    if unknown := sorted(entry.keys() - fields.keys()):
        raise UserError(f"{where}: unknown field {unknown[0]!r}; choose from {', '.join(fields)}.")
    for name, field in fields.items():
        if name not in entry and field.default is dataclasses.MISSING:
            raise UserError(f"{where}: lacks {name!r}.")
        if name in entry and not _fits(entry[name], field.type):
            expected = _WORDS.get(name) or f"expected a {field.type.__name__}"  # type: ignore[union-attr]
            raise UserError(f"{where}: {name}: {expected}; found {entry[name]!r}.")
    paths = {name: os.path.expanduser(entry[name]) for name in _PATHS if isinstance(entry.get(name), str)}
    task = Task(**entry | paths)
    for name, choices in (("task", TASKS), ("format", FORMATS)):
        if getattr(task, name) not in choices:
            raise UserError(f"{where}: unknown {name} {getattr(task, name)!r}; choose from {', '.join(choices)}.")
    if not re.fullmatch(r"\w[\w/.-]*", task.name) or ".." in task.name:
        raise UserError(f"{where}: name: expected letters, digits and any of _ / . -; found {task.name!r}.")
    if task.shots < 0:
        raise UserError(f"{where}: shots: expected a number from 0; found {task.shots}.")
    return task
