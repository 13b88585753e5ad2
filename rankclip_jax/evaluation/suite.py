"""Evaluation suites: JSON files that list datasets and the tasks to evaluate on them.

``{"name": ..., "tasks": [{"name": "cifar10", "task": "zero_shot", "format": "webdataset", "path": "cifar10"}, ...]}``
"""

from pathlib import Path
from typing import Any

from rankclip_jax.evaluation.tasks import Task, names_of, parse
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import read_json
from rankclip_jax.settings import recipe_files


def find(given: Path) -> Path:
    """Returns the file of a suite from its path, or from the name of a built-in suite such as ``paper_zero_shot``.

    Raises:
      UserError: the suite does not exist.
    """
    folder = recipe_files.FOLDER / "suites"
    if given.is_file():
        return given
    if given.parent in (Path(), Path("configs/suites")) and (builtin := folder / f"{given.stem}.json").is_file():
        return builtin
    names = ", ".join(sorted(path.stem for path in folder.glob("*.json")))
    raise UserError(f"--suite: no file at {given}. Use the path of a suite file, or choose from {names}.")


def read(path: Path) -> list[Task]:
    """Reads the tasks of a suite file, in order.

    Raises:
      UserError: the file is not JSON, or not a valid suite.
    """
    return read_whole(path)[0]


def read_whole(path: Path) -> tuple[list[Task], dict[str, list[str]]]:
    """Reads the tasks of a suite file, and the names of the tasks in each of its averages; see `read`."""
    try:
        content = read_json(path, object)
    except UserError as error:
        raise UserError(f"--suite: {error}") from error
    entries = content.get("tasks") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise UserError(f'--suite: {path}: expected an object with a non-empty list "tasks".')
    tasks = [_task(f"--suite: {path}, task {number}", entry) for number, entry in enumerate(entries, 1)]
    names = names_of(tasks)
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise UserError(
            f"--suite: {path}: expected a different name for each task; found several tasks named {repeated!r}. Rename "
            "them."
        )
    return tasks, _averages(path, content.get("averages", {}), [task.name for task in tasks])


def _averages(path: Path, given: Any, task_names: list[str]) -> dict[str, list[str]]:
    """Returns the tasks of each average by its name; an empty list stands for all tasks."""
    if not isinstance(given, dict) or not all(isinstance(names, list) for names in given.values()):
        raise UserError(f"--suite: {path}: averages: expected an object with a list of task names for each average.")
    if unknown := [name for names in given.values() for name in names if name not in task_names]:
        raise UserError(f"--suite: {path}: averages: unknown task {unknown[0]!r}; choose from {', '.join(task_names)}.")
    return {name: names or task_names for name, names in given.items()}


def _task(where: str, entry: Any) -> Task:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected an object; found {entry!r}.")
    for name in ("name", "task", "path"):
        if not entry.get(name):
            raise UserError(f"{where}: {name!r} is missing. Add it.")
    if not isinstance(entry["name"], str):
        raise UserError(f"{where}: name: expected a string; found {entry['name']!r}.")
    return parse(where, entry["name"], {key: value for key, value in entry.items() if key != "name"})
