"""A suite, run: every dataset looked at first, then measured one by one; what was measured before is kept."""

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rankclip_jax.evaluation import public_results
from rankclip_jax.evaluation.suite import Task
from rankclip_jax.evaluation.tasks import TASKS, Data, Measured, check
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.evaluation_sets import open_set
from rankclip_jax.input_pipeline.evaluation_sets.wording import Wording
from rankclip_jax.input_pipeline.files import printable
from rankclip_jax.input_pipeline.source import Source, truth_of
from rankclip_jax.parallel.processes import is_first, largest_of_all
from rankclip_jax.telemetry.clock import format_duration
from rankclip_jax.telemetry.console import renew, say


@dataclasses.dataclass(frozen=True)
class Identity:
    """Which weights are measured.

    Args:
      model: the preset's name.
      pretrained: where they are.
      digest: of their content.
    """

    model: str
    pretrained: str
    digest: str


def run(
    tasks: list[Task], suite: Path, data: Path, measured: Measured, identity: Identity, output: Path
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Measures what was not measured before of the same weights and data, and writes each result when it is there.

    Args:
      tasks: of the suite.
      suite: its file, which paths of names and templates begin from.
      data: the folder that the datasets' paths begin from.
      measured: the model.
      identity: of its weights.
      output: the folder of the results.

    Returns:
      The results by the tasks' names, and why others have none.
    """
    opened: dict[str, Data] = {}
    faults: dict[str, str] = {}
    for task in tasks:
        try:
            opened[task.name] = _open(task, suite, data)
            check(task.task, opened[task.name])
        except UserError as error:
            opened.pop(task.name, None)
            faults[task.name] = str(error)
            if is_first():
                say(printable(f"left out: {task.name}: {error}", 1000))
    results: dict[str, dict[str, Any]] = {}
    for number, task in enumerate(tasks, 1):
        if task.name not in opened:
            continue
        path = output / f"{task.name.replace('/', '-')}.json"
        provenance = _provenance(task, opened[task.name], data / task.path, identity)
        before = public_results.read(path)
        known = before is not None and before.get("provenance") == provenance
        if largest_of_all(int(not known)):
            title = f"{number}/{len(tasks)} {task.name}"
            if is_first():
                renew(f"{title}: {len(opened[task.name].source):,} images")
            try:
                metrics = TASKS[task.task](dataclasses.replace(measured, tell=_progress(title)), opened[task.name])
            except UserError as error:
                faults[task.name] = str(error)
                if is_first():
                    say(printable(f"failed: {task.name}: {error}", 1000))
                continue
            before = public_results.result(
                dataset=task.name,
                model=identity.model,
                pretrained=identity.pretrained,
                task=task.task,
                metrics=metrics,
                provenance=provenance,
            )
            if is_first():
                public_results.write(path, before)
        assert before is not None
        results[task.name] = before
    if results and is_first():
        lines = {
            task.name: (task.title, results[task.name], task.main_metric) for task in tasks if task.name in results
        }
        public_results.write_lines(output / public_results.LINES, lines)
    return results, faults


def format_table(tasks: list[Task], results: dict[str, dict[str, Any]], faults: dict[str, str]) -> str:
    """A line for each task: its main metric, and up to four of the others."""
    names = [printable(task.name) for task in tasks]
    width = max(map(len, names))
    lines = []
    for shown, task in zip(names, tasks, strict=True):
        if task.name in results:
            metrics = results[task.name]["metrics"]
            main = public_results.main_metric(results[task.name], task.main_metric)
            others = "  ".join(f"{printable(name)} {_number(value)}" for name, value in list(metrics.items())[:4])
            lines.append(f"  {shown:<{width}}  {_number(main):>7}  {others}")
        elif task.name in faults:
            lines.append(f"  {shown:<{width}}  {'-':>7}  left out, as said above")
    return "\n".join(lines)


def _open(task: Task, suite: Path, data: Path) -> Data:
    wording = Wording(task.classnames, task.templates, suite.parent)
    source = open_set(task.format, data / task.path, task.split, wording)
    if task.task != "linear_probe":
        return Data(source, shared_captions=task.shared_captions, grouped=task.grouped)
    return Data(source, open_set(task.format, data / task.path, task.train_split, wording), task.shots)


def _progress(title: str) -> Callable[[int, int], None]:
    """Renews a terminal's line with how many images are embedded; elsewhere lines would pile up."""
    start = time.monotonic()

    def tell(done: int, size: int) -> None:
        if done and is_first() and sys.stdout.isatty():
            rate = done / (time.monotonic() - start)
            left = format_duration((size - done) / rate)
            renew(f"{title}: {done:,} of {size:,} images ({done / size:.0%}), {rate:,.0f} a second, {left} left")

    return tell


def _provenance(task: Task, data: Data, path: Path, identity: Identity) -> dict[str, Any]:
    """What must be the same for a result to be: weights, the task's fields, and the data."""
    sources = [source for source in (data.source, data.train) if source is not None]
    return {
        "weights": identity.digest,
        "task": dataclasses.asdict(task),
        "images": [len(source) for source in sources],
        "data": [_digest(source, path) for source in sources],
    }


def _digest(source: Source, path: Path) -> str:
    """Of a dataset's files, by name, size and time of writing, and of what its classes are called."""
    files = {file for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()}
    files.update(getattr(source, "paths", ()))
    known = truth_of(source).classes
    sentences = [list(row) for row in known.prompts] if known else []
    stats = [(str(file), *_size_and_time(file)) for file in sorted(files)]
    return hashlib.sha256(json.dumps([sentences, stats]).encode()).hexdigest()


def _size_and_time(file: Path) -> tuple[int, int]:
    """Of a file; of one that is not there, nothing."""
    try:
        stat = file.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
