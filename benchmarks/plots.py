"""Draw a benchmark's table, for the report."""

from __future__ import annotations

import io

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from benchmarks.results import Plot, Table, Value, shown

WIDTH, HEIGHT = 5.2, 3.2  # inches: its text is read on a phone too
BAR = 0.34  # inches for a bar and the space around it


def draw(table: Table) -> str | None:
    """Draw a table as its plot says: SVG, or None where there is nothing to draw.

    Raises:
        ValueError: if the plot names a column that the table lacks.
    """
    plot = table.plot
    if plot is None or not table.rows:
        return None
    missing = [name for name in (plot.x, *plot.y) if name not in table.columns]
    if missing:
        raise ValueError(f"{table.title}: no column {missing[0]!r} to draw")
    places = {name: table.columns.index(name) for name in (plot.x, *plot.y)}
    xs = [row[places[plot.x]] for row in table.rows]
    ys = {name: [_number(row[places[name]]) for row in table.rows] for name in plot.y}
    numbers = [_number(x) for x in xs]
    if all(x is not None for x in numbers):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        _curves(figure.add_subplot(), numbers, ys, plot)
    else:
        height = 1 + BAR * len(xs) * max(1.0, 0.7 * len(ys))
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        _bars(figure.add_subplot(), [shown(x) for x in xs], ys, plot)
    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "colorizer"}):  # the same table gives the same file
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _number(value: Value) -> float | None:
    return float(value) if isinstance(value, (int, float)) and value == value else None


def _curves(
    axes: Axes, xs: list[float | None], ys: dict[str, list[float | None]], plot: Plot
) -> None:
    for name, values in ys.items():
        pairs = zip(xs, values, strict=True)
        points = sorted((x, y) for x, y in pairs if x is not None and y is not None)
        axes.plot([x for x, _ in points], [y for _, y in points], marker=".", label=name)
    axes.set(xlabel=plot.x, ylabel=plot.unit)
    if plot.log:
        axes.set(xscale="log", yscale="log")
        ticks = sorted({x for x in xs if x is not None})
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    else:
        highest = max((y for values in ys.values() for y in values if y is not None), default=0.0)
        axes.set_ylim(0, 1.1 * highest or 1.0)
        if all(x == round(x) for x in xs if x is not None):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _bars(axes: Axes, words: list[str], ys: dict[str, list[float | None]], plot: Plot) -> None:
    thick = 0.8 / len(ys)
    for number, (name, values) in enumerate(ys.items()):
        places = [row + (number - (len(ys) - 1) / 2) * thick for row in range(len(words))]
        axes.barh(places, [value or 0.0 for value in values], thick, label=name)
        for place, value in zip(places, values, strict=True):
            text = f" {shown(value)}" if value is not None else " none"
            axes.annotate(text, (value or 0.0, place), va="center", fontsize=8)
    axes.set_yticks(range(len(words)), words)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(plot.unit)
    if plot.log:
        axes.set_xscale("log")
    if len(ys) > 1:
        axes.legend(fontsize=8)
