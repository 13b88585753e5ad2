"""The report about one run or several: their workdirs' files, and what their models make of validation data."""

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
_MOST_POINTS = 400  # of a line


def write(workdirs: Sequence[Path], output: Path) -> None:
    """Writes the page.

    Args:
      workdirs: of the runs; the first is what the others are compared with.
      output: the file.

    Raises:
      UserError: one of them holds no run, or the file cannot be written.
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
        write_atomically(output, content.encode("utf8", "backslashreplace"))  # names of metrics may be no Unicode
    except OSError as error:
        raise UserError(f"--output: {output} cannot be written ({error}). Name another path.") from error


def _name(folder: Path, workdirs: Sequence[Path]) -> str:
    """The folder's own name, or all of its path where another run is called the same."""
    alike = [other for other in workdirs if resolve(other).name == resolve(folder).name]
    return str(folder) if len(alike) > 1 else resolve(folder).name


def _runs(configs: dict[str, dict], folders: dict[str, Path]) -> str:
    rows = []
    for name, config in configs.items():
        steps = saved_steps(folders[name])
        batch = f"{config['train']['global_batch_size']:,}"
        told = (config["model"]["name"], config["objective"]["name"], batch, str(steps[-1]) if steps else "none")
        state = status.state_of(folders[name], config)
        mark = "finished" if state.finished else "unfinished"
        shown = f'<span class="{mark}">{html.escape(state.words)}</span>'
        rows.append([html.escape(name), shown, *map(html.escape, told)])
    content = page.table(["run", "state", "model", "objective", "pairs a step", "newest checkpoint"], rows)
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
    """A setting's value; of a number, as many digits as tell it from others."""
    return html.escape(f"{value:.6g}" if isinstance(value, float) else repr(value))


def _evaluation(configs: dict[str, dict], folders: dict[str, Path]) -> str:
    """The newest results of each run side by side, with what each has more or less than the first."""
    found = {name: _newest_results(folder) for name, folder in folders.items()}
    names = list(dict.fromkeys(metric for _, values in found.values() for metric in values))
    if not names:
        return ""
    directions = {name: way for folder in folders.values() for name, way in results.directions(folder).items()}
    rows = []
    for metric in names:
        cells = [page.name(metric)]
        first = next(iter(found.values()))[1].get(metric)
        for number, (_, values) in enumerate(found.values()):
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
            for name, (step, _) in found.items()
        ),
    ]
    return page.table(head, rows)


def _judged(higher_is_better: bool | None, difference: float) -> str:
    """Whether a difference is for the better, of metrics that know."""
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
        if any(len(points) > 1 for points in series.values()):  # one point is in the table above
            drawn.append(charts.lines(metric, series, "step"))
    return f'<div class="charts">{"".join(drawn)}</div>' if any(drawn) else ""


def _time(folders: dict[str, Path]) -> str:
    told = {name: goodput.seconds_of(folder) for name, folder in folders.items()}
    if not any(told.values()):
        return ""
    shares = [f"{goodput.share_of_steps(seconds):.1%}" if seconds else "-" for seconds in told.values()]
    rows = [["goodput", *shares]]
    for cause, words in goodput.CAUSES.items():
        if any(cause in seconds for seconds in told.values()):
            rows.append([words, *(format_duration(seconds.get(cause, 0.0)) for seconds in told.values())])
    return page.table(["time", *map(html.escape, told)], rows)


def _findings(folder: Path, stored: dict) -> str:
    """What its newest checkpoint makes of its validation data; nothing where it lacks either."""
    config = ConfigDict(stored)
    if not saved_steps(folder) or not input_pipeline.has_validation(config.data):
        return ""
    try:
        source = input_pipeline.open_source(
            config.data, "validation", image_size=preset_of(config.model).vision.image_size, seed=config.seed
        )
    except UserError as error:
        say(printable(f"note: no pictures of {folder}, whose validation data are not here: {error}", 1000))
        return ""
    weights = loading.read(folder, weights=config.evaluation.weights)
    embedder = Embedder(weights.model, Layout(make_local_mesh()))
    size = min(model_section.PAIRS, len(source))
    embedded = embedder.dataset(
        weights.variables, source, size, batch_size=size, max_pixels=config.data.get("max_pixels", MAX_PIXELS)
    )
    return model_section.render(source, embedded, Encoder(weights.model, weights.variables))
