"""Charts as SVG for light and dark pages: text has the page's colour, and each series its own."""

import html
import math
from collections.abc import Mapping, Sequence

import numpy as np

_WIDTH, _HEIGHT = 400, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 16, 26
_FEW = 12  # points up to which each is marked
_DASHES = ("", "6 3", "2 3", "8 3 2 3")

Points = Sequence[tuple[float, float]]


def lines(title: str, series: Mapping[str, Points], across: str) -> str:
    """Returns a line chart with a legend.

    Args:
      title: the chart's title.
      series: points by name, in order.
      across: the label of the x axis.
    """
    shown = {name: points for name, points in series.items() if points}
    if not shown:
        return ""
    xs, ys = (np.asarray([point[axis] for points in shown.values() for point in points]) for axis in (0, 1))
    plot = _Plot((xs.min(), xs.max()), (min(ys.min(), 0.0), ys.max()))
    marks = []
    for number, (name, points) in enumerate(shown.items()):
        path = " ".join(f"{plot.x(x):.1f},{plot.y(y):.1f}" for x, y in points)
        dash = f' stroke-dasharray="{_DASHES[number // 8 % 4]}"' if number >= 8 else ""
        marks.append(
            f'<polyline class="line s{number % 8}" points="{path}"{dash}><title>{html.escape(name)}</title></polyline>'
        )
        if len(points) <= _FEW:
            marks += [
                f'<circle class="dot s{number % 8}" cx="{plot.x(x):.1f}" cy="{plot.y(y):.1f}" r="3"/>'
                for x, y in points
            ]
    return _figure(title, plot.axes(across) + "".join(marks), list(shown))


def densities(title: str, series: Mapping[str, np.ndarray], across: str) -> str:
    """Returns a chart of histograms as lines, each scaled to the same area.

    Args:
      title: the chart's title.
      series: values by name.
      across: the label of the x axis.
    """
    low = min(float(values.min()) for values in series.values())
    high = max(float(values.max()) for values in series.values())
    edges = np.linspace(low, high if high > low else low + 1, 41)
    points = {
        name: list(zip((edges[:-1] + edges[1:]) / 2, np.histogram(values, edges, density=True)[0], strict=True))
        for name, values in series.items()
    }
    return lines(title, points, across)


def pairs(title: str, first: np.ndarray, second: np.ndarray, names: tuple[str, str]) -> str:
    """Returns a scatter plot of two kinds of points, with a line between the two points of each pair.

    Args:
      title: the chart's title.
      first: ``[n, 2]``.
      second: ``[n, 2]``.
      names: the names of the two kinds.
    """
    both = np.concatenate([first, second])
    plot = _Plot(*((float(both[:, axis].min()), float(both[:, axis].max())) for axis in (0, 1)))
    joined = "".join(
        f'<line class="join" x1="{plot.x(a[0]):.1f}" y1="{plot.y(a[1]):.1f}" x2="{plot.x(b[0]):.1f}" '
        f'y2="{plot.y(b[1]):.1f}"/>'
        for a, b in zip(first, second, strict=True)
    )
    dots = "".join(
        f'<circle class="dot s{kind}" cx="{plot.x(x):.1f}" cy="{plot.y(y):.1f}" r="3"/>'
        for kind, points in enumerate((first, second))
        for x, y in points
    )
    return _figure(title, joined + dots, list(names))


class _Plot:
    """Maps values to coordinates in the chart."""

    def __init__(self, across: tuple[float, float], up: tuple[float, float]) -> None:
        self._across, self._up = _widened(across), _widened(up)

    def x(self, value: float) -> float:
        low, high = self._across
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self._up
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def axes(self, across: str) -> str:
        """Returns grid lines, tick labels and the label of the x axis."""
        parts = []
        for value in _ticks(*self._up):
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
        for value in _ticks(*self._across):
            parts.append(f'<text x="{self.x(value):.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{value:g}</text>')
        label = html.escape(across)
        return "".join(parts) + f'<text x="{_WIDTH - _RIGHT}" y="{_TOP}" text-anchor="end">{label}</text>'


def _widened(ends: tuple[float, float]) -> tuple[float, float]:
    """Returns the ends of an interval, widened if it is too short to draw."""
    low, high = float(ends[0]), float(ends[1])
    least = 1e-9 * max(abs(low), abs(high)) + 1e-100
    if high - low > least:
        return low, high
    margin = 0.5 if least < 1e-9 else 0.5 * max(abs(low), abs(high))
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Returns four to eight round numbers in an interval."""
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    while (high - low) / step > 8:
        step *= 2 if (high - low) / step <= 16 else 5
    first = math.ceil(low / step)
    return [round(number * step, 10) for number in range(first, math.floor(high / step) + 1)]


def _figure(title: str, inside: str, names: Sequence[str]) -> str:
    legend = "".join(
        f'<li><span class="key k{number % 8}"></span>{html.escape(name)}</li>' for number, name in enumerate(names)
    )
    label = html.escape(title)
    return (
        f'<figure><figcaption>{label}</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{label}">{inside}</svg><ul class="legend">{legend}</ul></figure>'
    )
