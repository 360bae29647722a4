"""Panels laid out in inches, and how pixels and captions are put into them."""

from __future__ import annotations

import textwrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import GRAY, INK, one_line
from pipeline.images.arrays import Pixels

# Inches.
PANEL = 3.3
GAP = 0.25
CAPTION = 0.5
TITLE = 0.3
FIXED = 2.3  # height of a row that holds no image

FLATTEST, TALLEST = 0.5, 1.3  # height to width of a panel: in between a panel has the image's own form
THIN = 12  # from here on an image is stretched across, since its lines could not be seen


class Grid:
    """A figure of equal columns; a panel of several rows or columns takes the gaps and captions between them too.

    Args:
        columns: how many panels stand side by side.
        rows: how many stand above each other.
        ratio: height to width of the image shown.
        fixed_rows: rows that hold no image and have a height of their own.
    """

    def __init__(self, columns: int, rows: int, ratio: float, fixed_rows: tuple[int, ...] = ()) -> None:
        self.ratio = min(max(ratio, FLATTEST), TALLEST)
        self.fixed_rows = fixed_rows
        self.width = columns * (PANEL + GAP) - GAP
        self.height = sum(self._row_height(row) + CAPTION for row in range(rows)) + TITLE
        self.figure = Figure(figsize=(self.width, self.height), facecolor="white")

    def _row_height(self, row: int) -> float:
        return FIXED if row in self.fixed_rows else PANEL * self.ratio

    def add(self, row: int, column: int, *, rows: int = 1, columns: int = 1, inset: bool = False) -> Axes:
        """Returns the axes of a panel; `inset` leaves room at its left and bottom for tick labels."""
        above = sum(self._row_height(index) + CAPTION for index in range(row)) + TITLE + CAPTION
        height = sum(self._row_height(row + index) + CAPTION for index in range(rows)) - CAPTION
        left, width = column * (PANEL + GAP), columns * (PANEL + GAP) - GAP
        bottom = self.height - above - height
        if inset:
            left, width, bottom, height = left + 0.3, width - 0.3, bottom + 0.2, height - 0.2
        box = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)

    def write_title(self, text: str) -> None:
        """Writes the title at the top left."""
        self.figure.text(0, 1, text, ha="left", va="top", fontsize=15, weight="bold", color=INK, parse_math=False)


def show_pixels(axes: Axes, pixels: Pixels, *, extent_of: Pixels | None = None) -> None:
    """Draws `(H, W)` gray or `(H, W, 3)` RGB uint8 pixels, levels as they are, in a hairline frame at the upper left.

    Args:
        axes: of the panel.
        pixels: small ones stay squares of one colour.
        extent_of: the image that `pixels` are a reduced copy of: its coordinates hold in the panel.
    """
    height, width = (pixels if extent_of is None else extent_of).shape[:2]
    thin = max(height, width) > THIN * min(height, width)
    axes.imshow(
        pixels, cmap="gray", vmin=0, vmax=255, extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        aspect="auto" if thin else "equal", interpolation="nearest" if max(pixels.shape[:2]) <= 96 else "antialiased",
    )  # fmt: skip
    axes.set_anchor("NW")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color="0.75", linewidth=0.5)


def caption(axes: Axes, name: str, text: str) -> None:
    """Writes a panel's name in bold and a line about it in gray above the panel."""
    look: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "parse_math": False}
    axes.annotate(name, (0, 1), (0, 17), fontsize=10.5, weight="bold", color=INK, **look)
    axes.annotate(text, (0, 1), (0, 5), fontsize=8, color=GRAY, **look)


def write_finding(figure: Figure, text: str) -> None:
    """Writes the title of a chart above the figure, in as many lines as its width takes."""
    # Above the figure rather than in it: `save_figure` cuts to what is drawn, and charts need not know the lines.
    lines = textwrap.wrap(one_line(text, 400), int(figure.get_figwidth() * 10.2))
    figure.text(
        0.005, 1.01, "\n".join(lines), ha="left", va="bottom", fontsize=11, weight="bold", color=INK, parse_math=False
    )
