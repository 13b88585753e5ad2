"""The page of a study: one HTML file with its tables, figures, and a summary in words; and the main table as text."""

import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rankclip_jax.cli.console import format_duration
from rankclip_jax.input_pipeline.files import write_atomically
from rankclip_jax.monitoring import charts, heat_maps, page
from rankclip_jax.monitoring.model_section import matrix
from rankclip_jax.studies.plan import Run
from rankclip_jax.studies.scheduler import Progress
from rankclip_jax.studies.snapshot import Snapshot
from rankclip_jax.studies.tables import Cell, Table, Tables

NAME = "study.html"
_GAP, _SCALE, _COSINE = "geometry/modality_gap", "logit_scale", "gradients/gradients/cosine"
_MOST_LINES = 8  # of a chart


def write(progress: Progress, costs: dict[str, float], folder: Path) -> Path:
    """Writes the page, and returns its path."""
    study, tables = progress.study, Tables(progress, costs)
    tuned, variants = study.tuned, [name for name, arm in study.arms.items() if arm.like]
    main, more = tables.equal_examples(tuned), tables.equal_examples(variants)
    sections = {
        "Summary": _summary(progress, tables, main),
        "Equal examples": _note(tables, tuned) + _table(main),
        "Equal time": _equal_time(tables, tuned),
        "Variants": _variants(tables, variants, more),
        "Figures": _figures(tables),
        "During training": _during_training(progress, tables),
        "Modality gap": _gaps(tables),
        "Where each word is seen": _heat_maps(tables),
        "Similarities": _similarities(tables),
        "How each arm was tuned": _tuning(progress),
        "Runs": _runs(progress),
    }
    path = folder / NAME
    write_atomically(path, page.document(study.title, sections).encode("utf8", "backslashreplace"))
    return path


def text(progress: Progress, costs: dict[str, float]) -> str:
    """Returns the main table as text, with a mark at each clear difference."""
    table = Tables(progress, costs).equal_examples(progress.study.tuned)
    columns, width = list(progress.study.report), max(map(len, table), default=0)
    lines = [f"{'':{width}}  {'  '.join(columns)}"]
    for arm, cells in table.items():
        shown = [f"{_number(cells[column]) + _mark(cells[column]):>{len(column)}}" for column in columns]
        lines.append(f"{arm:{width}}  {'  '.join(shown)}")
    return "\n".join([*lines, f"x 100; + and - : clearly above and below {progress.study.baseline}"])


def _number(cell: Cell) -> str:
    return "-" if cell.mean is None else f"{100 * cell.mean:.2f}"


def _mark(cell: Cell) -> str:
    if cell.difference is None or not cell.difference.is_clear:
        return " "
    return "+" if cell.difference.mean > 0 else "-"


def _note(tables: Tables, arms: Sequence[str]) -> str:
    baseline = html.escape(tables.study.baseline)
    return (
        f"<p>Means over seeds, times 100. Below each, the difference to {baseline} with its 95 % "
        f"interval, corrected for {tables.comparisons(arms)} comparisons; green and red where it excludes 0.</p>"
    )


def _table(table: Table) -> str:
    columns = list(next(iter(table.values()), {}))
    rows = [[html.escape(arm), *(_cell(cells[column]) for column in columns)] for arm, cells in table.items()]
    return page.table(["arm", *map(html.escape, columns)], rows) if rows else ""


def _cell(cell: Cell) -> str:
    if cell.difference is None:
        return _number(cell)
    low, high, mean = (100 * value for value in (cell.difference.low, cell.difference.high, cell.difference.mean))
    css = "plain" if not cell.difference.is_clear else "better" if mean > 0 else "worse"
    interval = f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"
    return f'{_number(cell)}<br><span class="{css}" title="seeds: {cell.difference.seeds}">{interval}</span>'


def _summary(progress: Progress, tables: Tables, main: Table) -> str:
    """Says for each column which arms are clearly better or worse than the baseline, and which are not."""
    done, planned = len(progress.results), len(progress.runs)
    state = "" if done == planned else f" {done} of {planned} runs are finished, so some arms or seeds are missing."
    items = []
    for column in progress.study.report:
        compared = {arm: cells[column].difference for arm, cells in main.items()}
        known = {arm: difference for arm, difference in compared.items() if difference is not None}
        order = sorted(known, key=lambda arm: -known[arm].mean)
        better = [f"{arm} ({100 * known[arm].mean:+.2f})" for arm in order if known[arm].low > 0]
        worse = [f"{arm} ({100 * known[arm].mean:+.2f})" for arm in order if known[arm].high < 0]
        unclear = [arm for arm in order if not known[arm].is_clear]
        parts = [
            f"{words} {', '.join(names)}"
            for words, names in (("better:", better), ("worse:", worse), ("no clear difference:", unclear))
            if names
        ]
        if parts:
            items.append(f"<li><b>{html.escape(column)}</b> &ndash; {html.escape('; '.join(parts))}.</li>")
    baseline = html.escape(progress.study.baseline)
    return f"<p>Each arm beside tuned {baseline}, trained on as many examples.{state}</p><ul>{''.join(items)}</ul>"


def _equal_time(tables: Tables, arms: Sequence[str]) -> str:
    if not tables.costs:
        return (
            "<p>Not measured: run <code>python -m rankclip_jax.benchmark objectives --config RECIPE --json "
            "DIR/costs.json</code> on an idle machine.</p>"
        )
    table = tables.equal_time(arms)
    columns = list(tables.study.report)
    rows = [
        [html.escape(arm), f"{tables.costs[arm]:.2f}", *(_cell(cells[column]) for column in columns)]
        for arm, cells in table.items()
    ]
    baseline = html.escape(tables.study.baseline)
    return (
        f"<p>Each arm beside {baseline} trained for as long a time: on more examples where a step of the arm takes "
        f"longer, interpolated between the measured lengths of {baseline}.</p>"
        + page.table(["arm", "time of a step", *map(html.escape, columns)], rows)
    )


def _variants(tables: Tables, variants: Sequence[str], table: Table) -> str:
    if not table:
        return ""
    columns = list(tables.study.report)
    rows = [
        [html.escape(arm), html.escape(tables.study.reference_of(arm)), *(_cell(cells[column]) for column in columns)]
        for arm, cells in table.items()
    ]
    return (
        f"<p>Not tuned themselves: the settings of a tuned arm with one change, beside the arm that is named. The "
        f"intervals are corrected for {tables.comparisons(variants)} comparisons.</p>"
        + page.table(["arm", "compared with", *map(html.escape, columns)], rows)
    )


def _figures(tables: Tables) -> str:
    drawn = []
    for title, figure in tables.study.figures.items():
        series = {
            name: [
                (place, 100 * mean)
                for place, arm in line.items()
                if (mean := tables.mean(arm, figure.column)) is not None
            ]
            for name, line in figure.lines.items()
        }
        drawn.append(charts.lines(f"{title}: {figure.column}, x 100", series, figure.across))
    return _charts(drawn)


def _charts(drawn: Sequence[str]) -> str:
    return f'<div class="charts">{"".join(drawn)}</div>' if any(drawn) else ""


def _during_training(progress: Progress, tables: Tables) -> str:
    drawn = []
    for title, name in (("Learned scale", _SCALE), ("Cosine of exact and released ranking gradients", _COSINE)):
        series = {}
        for arm in progress.study.arms:
            first = tables.seeds(arm).get(1)
            if first and name in first.history:
                series[arm] = [(float(step), value) for step, value in first.history[name]]
        arms = list(series)
        drawn += [
            charts.lines(title, {arm: series[arm] for arm in arms[start : start + _MOST_LINES]}, "step")
            for start in range(0, len(arms), _MOST_LINES)
        ]
    return _charts(drawn)


def _gaps(tables: Tables) -> str:
    rows = []
    for arm in tables.study.arms:
        gaps = [value for result in tables.seeds(arm).values() if (value := result.metrics.get(_GAP)) is not None]
        if gaps:
            rows.append([html.escape(arm), f"{np.mean(gaps):.3f}", f"{min(gaps):.3f} to {max(gaps):.3f}"])
    words = "<p>The distance between the mean embeddings of images and of captions, on validation data.</p>"
    return words + page.table(["arm", "modality gap", "over seeds"], rows) if rows else ""


def _snapshots(tables: Tables) -> dict[str, Snapshot]:
    found = {}
    for arm in tables.study.tuned:
        result = tables.seeds(arm).get(1)
        if result and result.captions:
            found[arm] = Snapshot.from_arrays(list(result.captions), dict(result.arrays))
    return found


def _heat_maps(tables: Tables) -> str:
    cards = []
    for arm, snapshot in _snapshots(tables).items():
        drawn = zip(snapshot.pixels, snapshot.captions, snapshot.heat, strict=True)
        cards.append(
            f"<h3>{html.escape(arm)}</h3><div class='cards'>{''.join(heat_maps.card(*each) for each in drawn)}</div>"
        )
    return "".join(cards)


def _similarities(tables: Tables) -> str:
    snapshots = _snapshots(tables).items()
    return _charts([matrix(each.similarity, f"{arm}, images (rows) by captions") for arm, each in snapshots])


def _tuning(progress: Progress) -> str:
    """Lists each trial's settings and score, and marks the chosen one."""
    study, rows = progress.study, []
    for arm in study.tuned:
        chosen = progress.plan.chosen(arm)
        for run in progress.plan.trials(arm):
            result = progress.results.get(run.name) if run else None
            if run and result:
                score = result.mean(study.choose_by)
                words = result.failed or ("-" if score is None else f"{100 * score:.2f}")
                mark = "chosen" if chosen == run.settings else ""
                rows.append([html.escape(arm), _settings(run), html.escape(words), mark])
    names = ", ".join(study.choose_by)
    words = f"<p>Chosen by the mean of {html.escape(names)} (times 100) with one seed that is not reported.</p>"
    return words + page.table(["arm", "settings", "score", ""], rows) if rows else ""


def _settings(run: Run) -> str:
    return html.escape(", ".join(f"{name}={value}" for name, value in run.settings.items()))


def _runs(progress: Progress) -> str:
    rows, total = [], 0.0
    for name, result in progress.results.items():
        total += result.seconds
        facts = ", ".join(result.provenance.values())
        rows.append([html.escape(name), format_duration(result.seconds), html.escape(result.failed or facts)])
    words = f"<p>{len(rows)} runs, {format_duration(total)} in all if done one at a time.</p>"
    return words + page.table(["run", "time", ""], rows) if rows else ""
