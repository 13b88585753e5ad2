"""A suite, run: every dataset looked at first, then measured one by one; what was measured before is kept."""

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

# Beside the first few of a task; chance is the same both ways of retrieval.
_SHOWN = ("zero_shot/chance", "retrieval/text_to_image/chance", "retrieval/images", "retrieval/captions", UNREADABLE)


@dataclasses.dataclass(frozen=True)
class Identity:
    """Which weights are measured.

    Args:
      model: its name in open_clip, or the preset's.
      pretrained: where they are.
      digest: of their content.
    """

    model: str
    pretrained: str
    digest: str


def run(
    tasks: list[Task], suite: Path, data: Path, measured: ModelUnderTest, identity: Identity, output: Path
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Measures what was not measured before of the same weights and data, and writes each result when it is there.

    Args:
      tasks: of the suite.
      suite: its file, which paths of names and templates begin from.
      data: the folder that the datasets' paths begin from.
      measured: the model.
      identity: of its weights.
      output: the folder of the results.

    Whatever is wrong with one dataset ends its task alone, and is said in its file too.

    Returns:
      The results by the tasks' names, and why others have none.
    """
    opened: dict[str, Data] = {}
    faults: dict[str, str] = {}

    def note(task: Task, what: str, why: str) -> None:
        faults[task.name] = why
        if is_primary_process():
            say(f"{what}: {printable(task.name)}: {why}")
            path = _path(output, task)
            content = public_results.failed(
                public_results.read(path),
                why,
                dataset=task.name,
                model=identity.model,
                pretrained=identity.pretrained,
                task=task.public_task,
                weights=identity.digest,
            )
            public_results.write(path, content)

    for task in tasks:
        found, why = _try_to_open(task, suite, data)
        if found is None:
            note(task, "left out", why)
        else:
            opened[task.name] = found
    results: dict[str, dict[str, Any]] = {}
    for number, task in enumerate(tasks, 1):
        if task.name not in opened:
            continue
        path = _path(output, task)
        provenance = _provenance(task, opened[task.name], data / task.path, identity)
        before = public_results.read(path)
        known = before is not None and before.get("provenance") == provenance
        if max_across_processes(int(not known)):
            title = f"{number}/{len(tasks)} {task.name}"
            if is_primary_process():
                renew(f"{title}: {len(opened[task.name].source):,} images")
            try:
                metrics = _evaluate(task, opened[task.name], measured, _progress(title))
            except Exception as error:
                # A UserError comes on all processes alike. After another one the rest might wait for this one for ever.
                if jax.process_count() > 1 and not isinstance(error, UserError):
                    raise
                note(task, "failed", _words(error))
                continue
            before = public_results.result(
                dataset=task.name,
                model=identity.model,
                pretrained=identity.pretrained,
                task=task.public_task,
                metrics=metrics,
                provenance=provenance,
            )
            if is_primary_process():
                public_results.write(path, before)
        assert before is not None
        results[task.name] = before
        if is_primary_process():
            _confirm(before, path, known)
    if results and is_primary_process():
        lines = {
            task.name: (task.title, results[task.name], task.main_metric) for task in tasks if task.name in results
        }
        public_results.write_lines(output / public_results.LINES, lines)
    return results, faults


def _words(error: Exception) -> str:
    """Why a task could not be measured: a `UserError` says it, of another the type does."""
    return printable(error if isinstance(error, UserError) else f"{type(error).__name__}: {error}", 1000)


def _path(output: Path, task: Task) -> Path:
    return output / f"{printable(task.name, 200).replace('/', '-')}.json"


def _confirm(result: dict[str, Any], path: Path, known: bool) -> None:
    """Ends the note of an earlier failure, and warns of images that could not be read, whenever the result counts."""
    if result.pop("error", None):
        public_results.write(path, result)
    if count := result["metrics"].get(UNREADABLE):
        kept = f"; so says the result that is kept. To measure them again, remove {path}" if known else ""
        say(f"warning: {result['dataset']}: {count:,} images could not be read and count as wrong{kept}")


def format_averages(tasks: list[Task], results: dict[str, dict[str, Any]], averages: dict[str, list[str]]) -> str:
    """A line for each average of main metrics; none where one of its tasks was not measured."""
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
        missing = "" if mean is not None else f"  of {len(parts)} tasks, {len(values)} are measured"
        lines.append(f"  {name:<{width}}  {_number(mean):>7}{missing}")
    return "\n".join(lines)


def format_table(tasks: list[Task], results: dict[str, dict[str, Any]], faults: dict[str, str]) -> str:
    """A line for each task: its main metric, up to four of the others, chance, and how many there are."""
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
            lines.append(f"  {name:<{width}}  {'-':>7}  left out, as said above")
    return "\n".join(lines)


def _try_to_open(task: Task, suite: Path, data: Path) -> tuple[Data | None, str]:
    """A task's data; or none, and why. Processes may see different files: what one cannot open, none measures."""
    found, why = None, ""
    try:
        found = task.open(data, suite.parent)
    except Exception as error:  # whatever a damaged file makes a reader raise
        why = _words(error)
    return (None, why or "another process cannot open it.") if max_across_processes(int(bool(why))) else (found, "")


def _evaluate(
    task: Task, data: Data, model: ModelUnderTest, report_progress: Callable[[int, int], None]
) -> list[Metric]:
    """Embeddings are kept for one task alone."""
    model = dataclasses.replace(model, report_progress=report_progress, embedded={})
    return [*task.evaluation.evaluate(model, data), model.unreadable(data.source)]


def _progress(title: str) -> Callable[[int, int], None]:
    """Renews a terminal's line with how many images are embedded; elsewhere lines would pile up."""
    start = time.monotonic()

    def report(done: int, size: int) -> None:
        if done and is_primary_process() and sys.stdout.isatty():
            rate = done / (time.monotonic() - start)
            left = format_duration((size - done) / rate)
            renew(f"{title}: {done:,} of {size:,} images ({done / size:.0%}), {rate:,.0f} a second, {left} left")

    return report


def _provenance(task: Task, data: Data, path: Path, identity: Identity) -> dict[str, Any]:
    """What must be the same for a result to be: weights, the task's fields, and the data."""
    sources = [source for source in (data.source, data.train) if source is not None]
    provenance = {
        "weights": identity.digest,
        "task": dataclasses.asdict(task),
        "images": [len(source) for source in sources],
        "data": [_digest(source, path) for source in sources],
    }
    return json.loads(json.dumps(provenance))  # as it is read again


def _digest(source: Source, path: Path) -> str:
    """Of a dataset's files, by name, size and time of writing, and of what its classes are called."""
    files = {file for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()}
    files.update(getattr(source, "paths", ()))
    known = ground_truth_of(source).classes
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
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
