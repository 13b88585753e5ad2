"""The HTML report of one or several runs: settings, results, curves, goodput, and the models' outputs."""

import html
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from rankclip_jax import input_pipeline
from rankclip_jax.checkpoints.workdir import read_config, saved_steps
from rankclip_jax.cli.console import format_duration, say
from rankclip_jax.distributed.mesh import make_local_mesh
from rankclip_jax.distributed.sharding import Layout
from rankclip_jax.evaluation import results
from rankclip_jax.evaluation.embedder import Embedder
from rankclip_jax.evaluation.encoder import Encoder
from rankclip_jax.input_pipeline.errors import UserError
from rankclip_jax.input_pipeline.files import printable, write_atomically
from rankclip_jax.input_pipeline.images import MAX_PIXELS
from rankclip_jax.input_pipeline.object_stores import resolve
from rankclip_jax.interop import loading
from rankclip_jax.models.presets import preset_of
from rankclip_jax.monitoring import charts, goodput, model_section, page, status
from rankclip_jax.monitoring.writers import read_lines
from rankclip_jax.settings.schema import flatten

_NOT_DRAWN = ("step", "finite", "unreadable")
_MOST_POINTS = 400  # of a curve


def write(workdirs: Sequence[Path], output: Path) -> None:
    """Writes the report.

    Args:
      workdirs: the folders of the runs; the others are compared with the first.
      output: the HTML file.

    Raises:
      UserError: a folder holds no run, or the file cannot be written.
    """
    configs = {_name(folder, workdirs): read_config(folder) for folder in workdirs}
    folders = dict(zip(configs, workdirs, strict=True))
    sections = {
        "Runs": _runs(configs, folders),
        "Evaluation": _evaluation(configs, folders),
        "Curves": _curves(folders),
        "Where the time went": _time(folders),
    }
    for name, folder in folders.items():
        sections[f"What {name} has learned"] = _findings(folder, configs[name])
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        content = page.document(f"Report: {', '.join(configs)}", sections)
        write_atomically(
            output, content.encode("utf8", "backslashreplace")
        )  # names of metrics may hold invalid Unicode
    except OSError as error:
        raise UserError(f"--output: {output} cannot be written ({error}). Use another path.") from error


def _name(folder: Path, workdirs: Sequence[Path]) -> str:
    """Returns the folder's name, or its full path if another run has the same name."""
    namesakes = [other for other in workdirs if resolve(other).name == resolve(folder).name]
    return str(folder) if len(namesakes) > 1 else resolve(folder).name


def _runs(configs: dict[str, dict], folders: dict[str, Path]) -> str:
    rows = []
    for name, config in configs.items():
        steps = saved_steps(folders[name])
        batch = f"{config['train']['global_batch_size']:,}"
        facts = (config["model"]["name"], config["objective"]["name"], batch, str(steps[-1]) if steps else "none")
        state = status.state_of(folders[name], config)
        mark = "finished" if state.finished else "unfinished"
        shown = f'<span class="{mark}">{html.escape(state.words)}</span>'
        rows.append([html.escape(name), shown, *map(html.escape, facts)])
    content = page.table(["run", "state", "model", "objective", "pairs per step", "newest checkpoint"], rows)
    values = {name: dict(flatten(config)) for name, config in configs.items()}
    keys = dict.fromkeys(key for each in values.values() for key in each)
    different = [key for key in keys if len({repr(each.get(key)) for each in values.values()}) > 1]
    if different:
        content += "<h3>Settings that differ</h3>" + page.table(
            ["setting", *map(html.escape, configs)],
            [[page.name(f"config.{key}"), *(_value(each.get(key)) for each in values.values())] for key in different],
        )
    return content


def _value(value: object) -> str:
    """Formats a setting's value; floats with six significant digits."""
    return html.escape(f"{value:.6g}" if isinstance(value, float) else repr(value))


def _evaluation(configs: dict[str, dict], folders: dict[str, Path]) -> str:
    """Formats the newest results of each run side by side, with differences from the first run."""
    newest = {name: _newest_results(folder) for name, folder in folders.items()}
    names = list(dict.fromkeys(metric for _, values in newest.values() for metric in values))
    if not names:
        return ""
    directions = {name: way for folder in folders.values() for name, way in results.directions(folder).items()}
    rows = []
    for metric in names:
        cells = [page.name(metric)]
        first = next(iter(newest.values()))[1].get(metric)
        for number, (_, values) in enumerate(newest.values()):
            value = values.get(metric)
            cells.append("-" if value is None else f"{value:.4f}")
            if number and value is not None and first is not None and value != first:
                judged = _judged(directions.get(metric), value - first)
                cells[-1] += f' <span class="{judged}">{value - first:+.4f}</span>'
        rows.append(cells)
    unfinished = {name for name, config in configs.items() if not status.state_of(folders[name], config).finished}
    head = [
        "metric",
        *(
            f"{html.escape(name)}, step {step}{' (unfinished)' if name in unfinished else ''}"
            for name, (step, _) in newest.items()
        ),
    ]
    return page.table(head, rows)


def _judged(higher_is_better: bool | None, difference: float) -> str:
    """Returns whether a difference is better or worse, or plain for metrics without a direction."""
    if higher_is_better is None:
        return "plain"
    return "better" if (difference > 0) == higher_is_better else "worse"


def _newest_results(folder: Path) -> tuple[int, dict[str, float | None]]:
    steps = [
        int(path.stem)
        for path in (folder / "evaluation").glob("*.json")
        if path.stem.isdecimal() and path.stem.isascii()
    ]
    step = max(steps, default=0)
    return step, results.read(results.path_of(folder, step))


def _curves(folders: dict[str, Path]) -> str:
    logged = {name: read_lines(folder / "metrics.jsonl") for name, folder in folders.items()}
    names = dict.fromkeys(key for lines in logged.values() for line in lines for key in line if key not in _NOT_DRAWN)
    drawn = []
    for metric in names:
        series = {}
        for name, lines in logged.items():
            points = [(line["step"], line[metric]) for line in lines if isinstance(line.get(metric), int | float)]
            series[name] = points[:: max(len(points) // _MOST_POINTS, 1)]
        if any(len(points) > 1 for points in series.values()):  # single points are in the table above
            drawn.append(charts.lines(metric, series, "step"))
    return f'<div class="charts">{"".join(drawn)}</div>' if any(drawn) else ""


def _time(folders: dict[str, Path]) -> str:
    times = {name: goodput.seconds_of(folder) for name, folder in folders.items()}
    if not any(times.values()):
        return ""
    shares = [f"{goodput.share_of_steps(seconds):.1%}" if seconds else "-" for seconds in times.values()]
    rows = [["goodput", *shares]]
    for cause, words in goodput.CAUSES.items():
        if any(cause in seconds for seconds in times.values()):
            rows.append([words, *(format_duration(seconds.get(cause, 0.0)) for seconds in times.values())])
    return page.table(["time", *map(html.escape, times)], rows)


def _findings(folder: Path, stored: dict) -> str:
    """Renders the outputs of the newest checkpoint on the validation data; empty without a checkpoint or data."""
    config = ConfigDict(stored)
    if not saved_steps(folder) or not input_pipeline.has_validation(config.data):
        return ""
    try:
        source = input_pipeline.open_source(
            config.data, "validation", image_size=preset_of(config.model).vision.image_size, seed=config.seed
        )
    except UserError as error:
        say(printable(f"note: skipping the examples of {folder}: cannot open its validation data: {error}", 1000))
        return ""
    weights = loading.read(folder, weights=config.evaluation.weights)
    embedder = Embedder(weights.model, Layout(make_local_mesh()))
    size = min(model_section.PAIRS, len(source))
    embedded = embedder.dataset(
        weights.variables, source, size, batch_size=size, max_pixels=config.data.get("max_pixels", MAX_PIXELS)
    )
    return model_section.render(source, embedded, Encoder(weights.model, weights.variables))
