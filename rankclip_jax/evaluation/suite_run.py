"""Runs a suite: opens every dataset first, then evaluates one task at a time; existing results are reused."""

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from rankclip_jax.cli.console import format_duration, renew, say
from rankclip_jax.distributed.processes import is_primary_process, max_across_processes
from rankclip_jax.evaluation import public_results
from rankclip_jax.evaluation.evaluation import UNREADABLE, Data, ModelUnderTest
from rankclip_jax.evaluation.metric import Metric
from rankclip_jax.evaluation.tasks import Task
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import printable
from rankclip_jax.input_pipeline.source import Source, ground_truth_of

# Metrics shown in addition to the first few of a task; retrieval's chance is the same in both directions.
_SHOWN = ("zero_shot/chance", "retrieval/text_to_image/chance", "retrieval/images", "retrieval/captions", UNREADABLE)


@dataclasses.dataclass(frozen=True)
class Identity:
    """The identity of the evaluated weights.

    Args:
      model: the model's name in open_clip, or the preset's.
      pretrained: the path of the weights.
      digest: the digest of their content.
    """

    model: str
    pretrained: str
    digest: str


def run(
    tasks: list[Task], suite: Path, data: Path, measured: ModelUnderTest, identity: Identity, output: Path
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Evaluates tasks that have no result for the same weights and data yet, and writes each result at once.

    An error of one dataset ends only its own task, and is recorded in the task's result file.

    Args:
      tasks: the tasks of the suite.
      suite: the suite's file; paths of class names and templates are relative to its folder.
      data: the folder to which the datasets' paths are relative.
      measured: the model.
      identity: the identity of its weights.
      output: the folder of the results.

    Returns:
      The results by task name, and the errors by task name.
    """
    opened: dict[str, Data] = {}
    faults: dict[str, str] = {}

    def record_fault(task: Task, outcome: str, reason: str) -> None:
        faults[task.name] = reason
        if is_primary_process():
            say(f"{outcome}: {printable(task.name)}: {reason}")
            path = _path(output, task)
            content = public_results.failed(
                public_results.read(path),
                reason,
                dataset=task.name,
                model=identity.model,
                pretrained=identity.pretrained,
                task=task.public_task,
                weights=identity.digest,
            )
            public_results.write(path, content)

    for task in tasks:
        task_data, reason = _try_to_open(task, suite, data)
        if task_data is None:
            record_fault(task, "skipped", reason)
        else:
            opened[task.name] = task_data
    results: dict[str, dict[str, Any]] = {}
    for number, task in enumerate(tasks, 1):
        if task.name not in opened:
            continue
        path = _path(output, task)
        provenance = _provenance(task, opened[task.name], data / task.path, identity)
        result = public_results.read(path)
        is_current = result is not None and result.get("provenance") == provenance
        if max_across_processes(int(not is_current)):
            title = f"{number}/{len(tasks)} {task.name}"
            if is_primary_process():
                renew(f"{title}: {len(opened[task.name].source):,} images")
            try:
                metrics = _evaluate(task, opened[task.name], measured, _progress(title))
            except Exception as error:
                # All processes raise a UserError together. After another error, the rest might wait for this process
                # forever.
                if jax.process_count() > 1 and not isinstance(error, UserError):
                    raise
                record_fault(task, "failed", _describe_error(error))
                continue
            result = public_results.result(
                dataset=task.name,
                model=identity.model,
                pretrained=identity.pretrained,
                task=task.public_task,
                metrics=metrics,
                provenance=provenance,
            )
            if is_primary_process():
                public_results.write(path, result)
        assert result is not None
        results[task.name] = result
        if is_primary_process():
            _confirm(result, path, is_current)
    if results and is_primary_process():
        lines = {
            task.name: (task.title, results[task.name], task.main_metric) for task in tasks if task.name in results
        }
        public_results.write_lines(output / public_results.LINES, lines)
    return results, faults


def _describe_error(error: Exception) -> str:
    """Returns the message of an error, with its type unless it is a `UserError`."""
    return printable(error if isinstance(error, UserError) else f"{type(error).__name__}: {error}", 1000)


def _path(output: Path, task: Task) -> Path:
    return output / f"{printable(task.name, 200).replace('/', '-')}.json"


def _confirm(result: dict[str, Any], path: Path, reused: bool) -> None:
    """Removes the record of an earlier failure from a valid result, and warns of unreadable images."""
    if result.pop("error", None):
        public_results.write(path, result)
    if count := result["metrics"].get(UNREADABLE):
        hint = f", according to an existing result. To evaluate again, remove {path}" if reused else ""
        say(f"warning: {result['dataset']}: {count:,} unreadable images count as wrong{hint}")


def format_averages(tasks: list[Task], results: dict[str, dict[str, Any]], averages: dict[str, list[str]]) -> str:
    """Formats a line for each average of main metrics; averages with missing tasks have no value."""
    mains = {
        task.name: public_results.main_metric(results[task.name], task.main_metric)
        for task in tasks
        if task.name in results
    }
    width = max(map(len, averages), default=0)
    lines = []
    for name, parts in averages.items():
        values = [value for part in parts if (value := mains.get(part)) is not None]
        mean = sum(values) / len(values) if len(values) == len(parts) else None
        missing = "" if mean is not None else f"  {len(values)} of {len(parts)} tasks are evaluated"
        lines.append(f"  {name:<{width}}  {_number(mean):>7}{missing}")
    return "\n".join(lines)


def format_table(tasks: list[Task], results: dict[str, dict[str, Any]], faults: dict[str, str]) -> str:
    """Formats a line for each task: its main metric, up to four others, chance, and the number of images."""
    names = [printable(task.name) for task in tasks]
    width = max(map(len, names))
    lines = []
    for name, task in zip(names, tasks, strict=True):
        if task.name in results:
            metrics = results[task.name]["metrics"]
            main = public_results.main_metric(results[task.name], task.main_metric)
            shown = dict(list(metrics.items())[:4]) | {key: metrics[key] for key in _SHOWN if metrics.get(key)}
            others = "  ".join(f"{printable(key.rpartition('/')[2])} {_number(value)}" for key, value in shown.items())
            lines.append(f"  {name:<{width}}  {_number(main):>7}  {others}")
        elif task.name in faults:
            lines.append(f"  {name:<{width}}  {'-':>7}  not evaluated, see above")
    return "\n".join(lines)


def _try_to_open(task: Task, suite: Path, data: Path) -> tuple[Data | None, str]:
    """Opens a task's data on all processes; returns None and the reason if any process cannot open them."""
    opened, reason = None, ""
    try:
        opened = task.open(data, suite.parent)
    except Exception as error:  # damaged files make readers raise arbitrary errors
        reason = _describe_error(error)
    if max_across_processes(int(bool(reason))):
        return None, reason or "another process cannot open it."
    return opened, ""


def _evaluate(
    task: Task, data: Data, model: ModelUnderTest, report_progress: Callable[[int, int], None]
) -> list[Metric]:
    """Evaluates one task, with a cache of embeddings of its own."""
    model = dataclasses.replace(model, report_progress=report_progress, embedded={})
    return [*task.evaluation.evaluate(model, data), model.unreadable(data.source)]


def _progress(title: str) -> Callable[[int, int], None]:
    """Returns a progress callback that updates a terminal's line; it prints nothing if stdout is not a terminal."""
    start = time.monotonic()

    def report(done: int, size: int) -> None:
        if done and is_primary_process() and sys.stdout.isatty():
            rate = done / (time.monotonic() - start)
            left = format_duration((size - done) / rate)
            renew(f"{title}: {done:,} of {size:,} images ({done / size:.0%}), {rate:,.0f} images/s, {left} left")

    return report


def _provenance(task: Task, data: Data, path: Path, identity: Identity) -> dict[str, Any]:
    """Returns the provenance of a result: a result with the same weights, task and data is reused."""
    sources = [source for source in (data.source, data.train) if source is not None]
    provenance = {
        "weights": identity.digest,
        "task": dataclasses.asdict(task),
        "images": [len(source) for source in sources],
        "data": [_digest(source, path) for source in sources],
    }
    return json.loads(json.dumps(provenance))  # as a file stores it


def _digest(source: Source, path: Path) -> str:
    """Returns a digest of the names, sizes and modification times of a dataset's files, and of its class prompts."""
    files = {file for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()}
    files.update(getattr(source, "paths", ()))
    classes = ground_truth_of(source).classes
    sentences = [list(row) for row in classes.prompts] if classes else []
    stats = [(str(file), *_size_and_time(file)) for file in sorted(files)]
    return hashlib.sha256(json.dumps([sentences, stats]).encode()).hexdigest()


def _size_and_time(file: Path) -> tuple[int, int]:
    """Returns a file's size and modification time; zeros for a missing file."""
    try:
        stat = file.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
