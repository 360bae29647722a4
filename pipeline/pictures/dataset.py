"""The picture of a data set: how many of what, how large, what it looks like, and what is in it twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import DPI, GRAY, INK, one_line
from pipeline.ingest.manifest import Manifest
from pipeline.ingest.result import DuplicatePair
from pipeline.pictures.charts import bar_rows, draw_aspects, draw_class_counts, draw_sizes, ordered_splits, split_names
from pipeline.pictures.pairs import COLUMNS, PAIR_ROW, STEP, draw_pairs, pair_rows
from pipeline.pictures.sheet import build_sheet, draw_sheet

# Inches.
WIDTH = 14.3
NAMES = 2.1  # room for the names of classes at the left
CAPTION = 0.55
HEAD = 0.7
CHARTS = (3.8, 4.8)  # height for few classes and for many
MANY = 8
LEFT_CHART = 8.0


def dataset_figure(manifest: Manifest, duplicates: Sequence[DuplicatePair], title: str) -> Figure:
    """Returns the picture of a data set; what is too much to draw is left out, and its number said.

    Read are only the images that are drawn and, for the means, up to 50 of each class drawn. An image that cannot be
    read (any more) leaves an empty place.

    Args:
        manifest: at least one image; of its columns id, path, label, split, width and height are used.
        duplicates: leaks come first in the picture, then near copies, mirrored ones and exact ones.
        title: written above everything, as one line.
    """
    canvas = _Canvas(manifest, len(duplicates))
    charts = canvas.charts
    canvas.write(one_line(title, 90), 0.0, 15, INK, weight="bold")
    canvas.write(_summary(manifest, duplicates), 0.33, 10, GRAY)
    top = HEAD + CAPTION
    height = min(charts, 0.75 * bar_rows(manifest))
    draw_class_counts(canvas.add(NAMES, top, LEFT_CHART - NAMES - 0.5, height), manifest)
    draw_sizes(canvas.add(LEFT_CHART + 0.65, top, WIDTH - LEFT_CHART - 0.75, charts - 1.95), manifest)
    draw_aspects(canvas.add(LEFT_CHART + 0.65, top + charts - 1.0, WIDTH - LEFT_CHART - 0.75, 1.0), manifest)
    top += charts + 0.35 + CAPTION
    rows = canvas.sheet.pixels.shape[0] / DPI
    draw_sheet(canvas.add(NAMES, top, canvas.sheet.pixels.shape[1] / DPI, rows), canvas.sheet)
    if duplicates:
        axes = canvas.add(0, top + rows + 0.2 + CAPTION, COLUMNS * STEP, PAIR_ROW * pair_rows(len(duplicates)))
        draw_pairs(axes, duplicates)
    return canvas.figure


class _Canvas:
    """The figure, as high as what it will hold, with places given in inches from the upper left."""

    def __init__(self, manifest: Manifest, duplicates: int) -> None:
        self.sheet = build_sheet(manifest)
        self.charts = CHARTS[bar_rows(manifest) >= MANY]
        self.height = HEAD + self.charts + 0.35 + 2 * CAPTION + self.sheet.pixels.shape[0] / DPI
        if duplicates:
            self.height += 0.2 + CAPTION + PAIR_ROW * pair_rows(duplicates)
        self.figure = Figure(figsize=(WIDTH, self.height), dpi=DPI, facecolor="white")

    def add(self, left: float, top: float, width: float, height: float) -> Axes:
        """Returns axes at a place."""
        bottom = self.height - top - height
        return self.figure.add_axes((left / WIDTH, bottom / self.height, width / WIDTH, height / self.height))

    def write(self, text: str, top: float, size: float, color: str, weight: str = "normal") -> None:
        """Writes a line at the left."""
        self.figure.text(
            0, 1 - top / self.height, text, va="top", fontsize=size, color=color, weight=weight, parse_math=False
        )


def _summary(manifest: Manifest, duplicates: Sequence[DuplicatePair]) -> str:
    """Returns the data set in one line."""
    counts = Counter(split_names(manifest))
    parts = [f"{_count(len(manifest), 'image')} in {_count(len(manifest.classes), 'class', 'classes')}"]
    if set(counts) != {""}:
        parts.append(", ".join(f"{counts[split]:,} {split or 'in no split'}" for split in ordered_splits(counts)))
    leaks = sum(pair.leak for pair in duplicates)
    if duplicates:
        across = f", {leaks:,} of them across splits" if leaks else ""
        parts.append(_count(len(duplicates), "pair") + f" of duplicates{across}")
    return "; ".join(parts)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"
