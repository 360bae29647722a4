"""The charts of an evaluation: scores per class with their intervals, reliability, curves over a changing quantity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from pipeline.figures import AMBER, BLUE, GRAY, GREEN, INK, ORANGE, PURPLE, SKY, one_line
from pipeline.pictures.layout import write_finding

#: Classes that are drawn of more than can be: those with the worst recall, and the best for comparison.
WORST, BEST = 20, 5
MOST_CLASSES = 30
NAME_COLUMNS = 26

#: Series are told apart by their marks too, not by colour alone.
COLOURS, MARKS = (BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER), "osD^vP"

#: Name, colour, mark and its size.
_LOOKS = (("recall", BLUE, "o", 4.5), ("precision", AMBER, "D", 3.5))

# Inches. Narrow, so that on a phone letters of 8.5 points are still read; rows are higher where there are few.
WIDTH, ROW, FEW, HIGH_ROW = 5.4, 0.235, 10, 0.32
ABOVE, BELOW = 0.32, 0.5  # room for the legend, and for numbers and a name under the axes


@dataclass(frozen=True)
class Scores:
    """One score of each class with its interval.

    Attributes:
        values: `(C,)` in [0, 1]; NaN where a class has none.
        low: Lower ends, `(C,)`.
        high: Upper ends, `(C,)`.
    """

    values: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]

    def arrays(self, rows: np.ndarray) -> np.ndarray:
        """Returns values, lower and upper ends of the rows, `(3, R)` float64."""
        return np.array([self.values, self.low, self.high], np.float64)[:, rows]


def per_class_figure(
    labels: Sequence[str], recall: Scores, precision: Scores, support: Sequence[int], title: str
) -> Figure:
    """Returns recall and precision of each class as dots on their intervals, the worst recall first.

    Of more than `MOST_CLASSES` the worst and a few of the best are drawn and the gap between them says what it holds.
    Classes without a test image have no recall; they are counted below the chart.

    Args:
        labels: C classes.
        recall: Of each class.
        precision: Of each class; NaN where it was never predicted.
        support: Test images of each class.
        title: The finding.
    """
    counts, values = np.asarray(support), np.asarray(recall.values, np.float64)
    tested = np.flatnonzero((counts > 0) & np.isfinite(values))
    ranked = tested[np.argsort(values[tested], kind="stable")]
    head, tail = (ranked, ranked[:0]) if len(ranked) <= MOST_CLASSES else (ranked[:WORST], ranked[-BEST:])
    rows = np.concatenate([head, tail])
    places = np.concatenate([np.arange(len(head)), len(head) + 1 + np.arange(len(tail))])
    chart = (HIGH_ROW if len(rows) <= FEW else ROW) * max(len(rows) + (len(tail) > 0), 1)
    height = ABOVE + chart + BELOW
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    axes = figure.add_axes((0.36, BELOW / height, 0.55, chart / height))
    for scores, (_, colour, mark, size), shift in zip(
        (precision, recall), reversed(_LOOKS), (0.17, -0.17), strict=True
    ):
        middle, low, high = scores.arrays(rows)
        known = np.isfinite(middle)
        axes.hlines(places[known] + shift, low[known], high[known], color=colour, lw=1.6, alpha=0.6)
        axes.plot(middle[known], places[known] + shift, mark, color=colour, ms=size)
    _style_rows(axes, places, [labels[row] for row in rows], counts[rows])
    _limit_scores(axes, np.concatenate([recall.arrays(rows).ravel(), precision.arrays(rows).ravel()]))
    if len(tail):
        _write_gap(axes, len(head), values[ranked[WORST:-BEST]])
    untested = len(labels) - len(tested)
    said = f"; {untested:,} {'class has' if untested == 1 else 'classes have'} no test image" if untested else ""
    axes.set_xlabel(f"share, with 95 % interval{said}", fontsize=8.5, color=GRAY)
    marks = [Line2D([], [], color=colour, marker=mark, ms=size, label=name) for name, colour, mark, size in _LOOKS]
    _write_legend(figure, marks, 1 - ABOVE / height)
    write_finding(figure, title)
    return figure


def _write_gap(axes: Axes, place: int, between: np.ndarray) -> None:
    text = f"{len(between):,} more classes, recall {between[0]:.3f} to {between[-1]:.3f}"
    axes.text(
        0.5, place, text, transform=axes.get_yaxis_transform(), ha="center", va="center", fontsize=8.5, color=GRAY,
        style="italic",
    )  # fmt: skip


def _style_rows(axes: Axes, places: np.ndarray, labels: Sequence[str], counts: np.ndarray) -> None:
    names = [one_line(label, NAME_COLUMNS) for label in labels]
    axes.set_yticks(places, names, fontsize=8.5, parse_math=False)
    axes.set_ylim(max([*places, 0]) + 0.6, -0.6)
    axes.tick_params(axis="y", length=0)
    beside = axes.get_yaxis_transform()
    for place, count in zip(places, counts.tolist(), strict=True):
        axes.text(1.15, place, f"{count:,}", transform=beside, ha="right", va="center", fontsize=8.5, color=GRAY)
    axes.annotate("images", (1.15, 1), (0, 4), xycoords="axes fraction", textcoords="offset points", ha="right",
                  fontsize=8, color=GRAY)  # fmt: skip
    axes.hlines(places, 0, 1, transform=beside, color="0.92", lw=0.7, zorder=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _limit_scores(axes: Axes, values: np.ndarray) -> None:
    """Shows [0, 1], or its upper part where nothing is below: intervals of good classes are short."""
    lowest = float(np.nanmin(values)) if np.isfinite(values).any() else 0.0
    floor = min(max(np.floor(10 * lowest) / 10, 0.0), 0.8)
    axes.set_xlim(floor - 0.015 * (1 - floor), 1 + 0.015 * (1 - floor))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.tick_params(axis="x", labelsize=8.5, colors=GRAY)


def _write_legend(figure: Figure, marks: Sequence[Artist], bottom: float) -> None:
    """Writes the legend in a line between the title and the axes."""
    figure.legend(
        handles=marks, frameon=False, fontsize=8.5, ncols=3, loc="lower left", bbox_to_anchor=(0, bottom),
        borderaxespad=0.2, borderpad=0,
    )  # fmt: skip


@dataclass(frozen=True)
class Reliability:
    """How often a model is right that says how sure it is.

    Attributes:
        name: Of this way to say it: "before", "temperature 1.4".
        confidence: Mean probability of the answers in each bin, `(B,)`; whatever where a bin is empty.
        accuracy: Share of them that is right, `(B,)`.
        counts: Answers in each bin, `(B,)`.
        low: Lower ends of the accuracies' intervals, `(B,)` or none.
        high: Upper ends.
    """

    name: str
    confidence: Sequence[float]
    accuracy: Sequence[float]
    counts: Sequence[int]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def reliability_figure(edges: Sequence[float], curves: Sequence[Reliability], title: str) -> Figure:
    """Returns the reliability diagram: the nearer to the diagonal, the truer the probabilities; below, how many.

    Args:
        edges: Of the bins, `(B + 1,)` in [0, 1].
        curves: One, or before and after calibration.
        title: The finding.
    """
    figure = Figure(figsize=(WIDTH, 4.9), facecolor="white")
    axes = figure.add_axes((0.12, 0.36, 0.84, 0.62))
    below = figure.add_axes((0.12, 0.1, 0.84, 0.2), sharex=axes)
    axes.plot([0, 1], [0, 1], color=GRAY, lw=1, ls=(0, (4, 3)))
    axes.text(0.98, 0.04, "dashed: as often right as it is sure", ha="right", fontsize=8.5, color=GRAY)
    span = np.diff(np.asarray(edges, np.float64))
    for place, curve in enumerate(curves):
        colour, mark = _look(place)
        full = np.asarray(curve.counts) > 0
        at, right = np.asarray(curve.confidence, np.float64)[full], np.asarray(curve.accuracy, np.float64)[full]
        if len(curve.low):
            axes.vlines(at, np.asarray(curve.low)[full], np.asarray(curve.high)[full], color=colour, lw=1.4, alpha=0.5)
        axes.plot(at, right, color=colour, marker=mark, ms=5, lw=1.5, label=one_line(curve.name, 40))
        wide = span / len(curves) * 0.92
        left = np.asarray(edges[:-1]) + span * (0.04 + 0.92 * place / len(curves))
        below.bar(left, curve.counts, wide, align="edge", color=colour, lw=0)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.set_ylabel("share that is right", fontsize=9)
    below.set_ylabel("images", fontsize=9)
    below.set_xlabel("probability of the answer", fontsize=9)
    below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    below.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.tick_params(labelbottom=False)
    for one in (axes, below):
        one.tick_params(labelsize=8.5, colors=GRAY)
        one.spines[["top", "right"]].set_visible(False)
        one.set_axisbelow(True)
        one.grid(color="0.92", lw=0.7)
    axes.legend(frameon=False, fontsize=9, loc="upper left")
    write_finding(figure, title)
    return figure


@dataclass(frozen=True)
class Series:
    """A curve with the interval of each of its points.

    Attributes:
        name: What it is of; "" stands in no legend.
        values: `(P,)`.
        low: Lower ends, `(P,)` or none.
        high: Upper ends.
    """

    name: str
    values: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True)
class Panel:
    """The curves of one axes.

    Attributes:
        name: Written above it, such as a perturbation's.
        x: `(P,)` where the points are.
        series: At least one.
    """

    name: str
    x: Sequence[float]
    series: tuple[Series, ...]


def curve_figure(
    x: Sequence[float], series: Sequence[Series], title: str, xlabel: str, ylabel: str, *, logarithmic: bool = False
) -> Figure:
    """Returns curves over one quantity in a single axes, such as a learning curve."""
    return curves_figure([Panel("", x, tuple(series))], title, xlabel, ylabel, logarithmic=logarithmic)


def curves_figure(
    panels: Sequence[Panel], title: str, xlabel: str, ylabel: str, *, logarithmic: bool = False
) -> Figure:
    """Returns small multiples: an axes a panel, all of one scale, such as a perturbation at its strengths.

    Args:
        panels: At least one; all have the same series.
        title: The finding.
        xlabel: Of what grows to the right.
        ylabel: Of what is measured.
        logarithmic: Whether equal steps to the right are equal factors.
    """
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(WIDTH, 3.3 if len(panels) == 1 else 0.9 + 1.75 * rows), facecolor="white")
    axes = figure.subplots(rows, columns, sharex=False, sharey=True, squeeze=False).ravel()
    for place, (one, panel) in enumerate(zip(axes, panels, strict=False)):
        _draw_panel(one, panel, logarithmic=logarithmic)
        if place % columns == 0:
            one.set_ylabel(one_line(ylabel, 30), fontsize=8.5, parse_math=False)
        if place + columns >= len(panels):
            one.set_xlabel(one_line(xlabel, 40 if columns == 1 else 22), fontsize=8.5, parse_math=False)
            one.tick_params(labelbottom=True)
    for one in axes[len(panels) :]:
        one.remove()
    marks, names = axes[0].get_legend_handles_labels()
    height, several = figure.get_figheight(), len(names) > 1  # a single curve is named by its axis
    above = ABOVE * several + 0.25 * any(panel.name for panel in panels)
    figure.subplots_adjust(0.125, BELOW / height, 0.97, 1 - above / height, 0.12, 0.5)
    if several:
        _write_legend(figure, marks, 1 - 0.25 / height)
    write_finding(figure, title)
    return figure


def _draw_panel(axes: Axes, panel: Panel, *, logarithmic: bool) -> None:
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    for place, series in enumerate(panel.series):
        colour, mark = _look(place)
        if len(series.low):
            axes.fill_between(panel.x, series.low, series.high, color=colour, alpha=0.15, lw=0)
        axes.plot(panel.x, series.values, color=colour, marker=mark, ms=4, lw=1.6,
                  label=one_line(series.name, 30) or "_nolegend_")  # fmt: skip
    if len(panel.x) <= 6:
        axes.set_xticks(panel.x, [f"{value:,g}" for value in panel.x])
    axes.set_title(one_line(panel.name, 24), fontsize=9, loc="left", color=INK, parse_math=False)
    axes.tick_params(labelsize=8, colors=GRAY)
    axes.grid(color="0.92", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _look(place: int) -> tuple[str, str]:
    return COLOURS[place % len(COLOURS)], MARKS[place % len(MARKS)]
