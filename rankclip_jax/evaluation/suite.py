"""Suites as data: JSON files that say which datasets a model is measured on, and how.

``{"name": ..., "tasks": [{"name": "cifar10", "task": "zero_shot", "format": "webdataset", "path": "cifar10"}, ...]}``
"""

from pathlib import Path
from typing import Any

from rankclip_jax.evaluation.tasks import Task, names_of, parse
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import read_json
from rankclip_jax.settings import recipe_files


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
    tasks = [_task(f"--suite: {path}, task {number}", entry) for number, entry in enumerate(entries, 1)]
    names = names_of(tasks)
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


def _task(where: str, entry: Any) -> Task:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected an object; found {entry!r}.")
    for name in ("name", "task", "path"):
        if not entry.get(name):
            raise UserError(f"{where}: lacks {name!r}.")
    if not isinstance(entry["name"], str):
        raise UserError(f"{where}: name: expected a str; found {entry['name']!r}.")
    return parse(where, entry["name"], {key: value for key, value in entry.items() if key != "name"})
