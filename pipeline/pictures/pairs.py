"""Duplicates side by side."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from pipeline.figures import DPI, GRAY, INK, one_line
from pipeline.images.arrays import letterbox
from pipeline.ingest.result import DuplicatePair
from pipeline.pictures.layout import caption
from pipeline.pictures.sheet import CELL, EMPTY, FRAME, GAP, draw_dots, prepare_dots, read_thumbnails

COLUMNS = 5
MOST_PAIRS = 15
PAIR_ROW = 2.15  # inches
STEP = 2.88  # inches from one pair to the next
RED = "#C8102E"
ORDER = {"near": 0, "mirrored": 1, "exact": 2}


def pair_rows(count: int) -> int:
    """Returns how many rows of pairs `draw_pairs` draws for `count` pairs."""
    return -(-min(count, MOST_PAIRS) // COLUMNS)


def draw_pairs(axes: Axes, duplicates: Sequence[DuplicatePair]) -> None:
    """Draws pairs in rows, with ids and differences, into axes `pair_rows` times `PAIR_ROW` inches high."""
    drawn = sorted(duplicates, key=lambda pair: (not pair.leak, ORDER[pair.kind], pair.first_id))[:MOST_PAIRS]
    paths = [path for pair in drawn for path in (pair.first_path, pair.second_path)]
    thumbnails = read_thumbnails(paths, range(len(paths)))
    prepare_dots(axes, pair_rows(len(drawn)) * _dots(PAIR_ROW), COLUMNS * _dots(STEP))
    for place, pair in enumerate(drawn):
        top, left = _dots(PAIR_ROW) * (place // COLUMNS), _dots(STEP) * (place % COLUMNS)
        for side in range(2):
            pixels = thumbnails.get(2 * place + side, EMPTY)
            draw_dots(axes, letterbox(pixels, CELL, CELL, FRAME), top, left + side * (CELL + GAP))
        _write_pair(axes, pair, top, left)
    rest = len(duplicates) - len(drawn)
    caption(
        axes,
        "duplicates",
        "how far values lie apart in the mean, 0 to 255" + f"; {rest:,} more are not shown" * (rest > 0),
    )


def _write_pair(axes: Axes, pair: DuplicatePair, top: int, left: int) -> None:
    difference = "" if pair.kind == "exact" else f", {pair.difference:.1f} apart"
    text = f"{'LEAK across splits: ' if pair.leak else ''}{pair.kind}{difference}"
    width = 2 * CELL + GAP
    axes.text(left, top + CELL + 22, text, fontsize=8.5, weight="bold", color=RED if pair.leak else INK)
    for line, name in enumerate((pair.first_id, pair.second_id)):
        shown = one_line(name, 42)
        axes.text(left, top + CELL + 42 + 17 * line, shown, fontsize=7.5, color=GRAY, parse_math=False)
    if pair.leak:
        axes.add_patch(Rectangle((left - 2, top - 1), width + 3, CELL + 1, fill=False, ec=RED, lw=2.2, clip_on=False))


def _dots(inches: float) -> int:
    return round(inches * DPI)
