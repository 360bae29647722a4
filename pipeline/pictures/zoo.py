"""Accuracy against what it costs: the published zoo, and beside it the models one has trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from pipeline.figures import AMBER, BLUE, DPI, GRAY, GREEN, INK, ORANGE, PURPLE, SKY, one_line

COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER)

#: Area of a bubble in points^2 for each million of parameters, and the least of it that can be seen.
AREA, LEAST_AREA = 4.0, 14.0


@dataclass(frozen=True)
class Bubble:
    """A model.

    Attributes:
        name: Written beside it.
        group: What shares a colour: a family, or an experiment.
        gflops: Of a forward pass.
        accuracy: In [0, 1].
        parameters: As many as there are.
        interval: What the accuracy's interval reaches from and to, None where it is not known.
    """

    name: str
    group: str
    gflops: float
    accuracy: float
    parameters: float
    interval: tuple[float, float] | None = None


def zoo_figure(published: Sequence[Bubble], trained: Sequence[Bubble], left_out: int) -> Figure:
    """Returns the chart: published models at the left, trained ones, if there are any, at the right.

    The two have axes of their own: accuracy on ImageNet and on one's own images are not to be compared.

    Args:
        published: Models, in any order; may be empty unless `trained` is not.
        trained: The newest first.
        left_out: Published models without a top-1 accuracy on ImageNet.
    """
    panels = [("published, on ImageNet", published), ("trained here, on each run's own test images", trained)]
    drawn = [(title, bubbles) for title, bubbles in panels if bubbles]
    size = (11 if len(drawn) == 1 else 17, 8.4)
    figure = Figure(figsize=size, dpi=DPI, facecolor="white", layout="constrained")
    axes = figure.subplots(1, len(drawn), squeeze=False, width_ratios=[3, 2][: len(drawn)])[0]
    axes[0].set_ylabel("top-1 accuracy")
    for place, (title, bubbles) in zip(axes, drawn, strict=True):
        _draw(figure, place, bubbles, title)
    note = f"; {left_out} without a published top-1 on ImageNet left out" if left_out else ""
    figure.supxlabel(
        f"GFLOPs of a forward pass, two for a multiply-add; a bubble's area is the number of parameters{note}",
        fontsize=9, color=GRAY,
    )  # fmt: skip
    return figure


def _draw(figure: Figure, axes: Axes, bubbles: Sequence[Bubble], title: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, color=INK)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(color="#E6E6E6", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    colours = _colours(bubbles)
    for bubble in sorted(bubbles, key=lambda one: -one.parameters):  # the small ones in front
        area = max(AREA * bubble.parameters / 1e6, LEAST_AREA)
        colour = colours[bubble.group]
        axes.scatter(
            bubble.gflops, bubble.accuracy, s=area, color=colour, alpha=0.45, lw=0.8, edgecolors=colour, zorder=3
        )
        if bubble.interval:
            axes.vlines(bubble.gflops, *bubble.interval, color=colour, lw=1, alpha=0.7, zorder=2)
    axes.margins(0.1, 0.08)
    figure.draw_without_rendering()  # only now is it known where names may stand
    _write_names(axes, bubbles, figure.dpi / 72)


def _colours(bubbles: Sequence[Bubble]) -> Mapping[str, str]:
    groups = list(dict.fromkeys(bubble.group for bubble in bubbles))
    return {group: COLOURS[place % len(COLOURS)] for place, group in enumerate(groups)}


def _write_names(axes: Axes, bubbles: Sequence[Bubble], scale: float) -> None:
    """Writes each name where it hides no other, right, left, above or below its bubble, else nowhere.

    `scale` is pixels a point.
    """
    taken = [_around(axes.transData.transform((one.gflops, one.accuracy)), 3 * scale, 3 * scale) for one in bubbles]
    inside = axes.get_window_extent()
    for bubble in sorted(bubbles, key=lambda one: -one.accuracy):
        text = one_line(bubble.name, 24)
        width, height = (0.56 * 7.2 * len(text) + 2) * scale, 9 * scale
        radius = np.sqrt(max(AREA * bubble.parameters / 1e6, LEAST_AREA) / np.pi) * scale
        x, y = axes.transData.transform((bubble.gflops, bubble.accuracy))
        away = min(radius, 9 * scale) + 2 * scale
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)):
            middle = (x + dx * (away + width / 2), y + dy * (away * (0.7 if dx else 1) + height / 2))
            box = _around(middle, width / 2, height / 2)
            fits = inside.x0 <= box[0] and box[2] <= inside.x1 and inside.y0 <= box[1] and box[3] <= inside.y1
            if fits and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                x_text, y_text = axes.transData.inverted().transform(middle)
                axes.text(
                    x_text, y_text, text, size=7.2, color=INK, ha="center", va="center", zorder=4, parse_math=False
                )
                break


def _around(middle: npt.ArrayLike, wide: float, high: float) -> tuple[float, float, float, float]:
    x, y = np.asarray(middle, float)
    return x - wide, y - high, x + wide, y + high


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
