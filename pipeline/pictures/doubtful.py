"""A gallery of images whose labels are in doubt: each with its label and what it looks like instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from pipeline.figures import DPI, GRAY, INK, ORANGE, one_line
from pipeline.images.arrays import letterbox
from pipeline.pictures.sheet import EMPTY, FRAME, draw_dots, prepare_dots, read_thumbnails, write_line

# Pixels of the written picture.
TILE = 224  # a multiple of 8, 28 and 56: sizes of small images, which are enlarged by a whole factor
BETWEEN = 24
TEXT = 100  # height of what stands under a tile
HEAD = 92
NARROWEST = 900  # for the title

COLUMNS = 6

#: Characters that fit under a tile: of a label in bold, and of a name.
LABEL_COLUMNS, NAME_COLUMNS = 20, 30


@dataclass(frozen=True)
class DoubtfulTile:
    """An image as it is drawn.

    Attributes:
        path: Where its pixels are; one that cannot be read leaves a gray tile.
        name: What it is called.
        label: Its class.
        suggested: The class that it looks like instead.
        note: A line of numbers.
    """

    path: str
    name: str
    label: str
    suggested: str
    note: str


def doubtful_figure(tiles: Sequence[DoubtfulTile], title: str, note: str) -> Figure:
    """Returns the picture: tiles in rows, in the order given.

    Args:
        tiles: None is an empty picture with its title.
        title: Written above everything.
        note: Written under the title.
    """
    columns = max(1, min(len(tiles), COLUMNS))
    rows = -(-len(tiles) // columns)
    width = max(NARROWEST, columns * (TILE + BETWEEN) - BETWEEN)
    height = HEAD + rows * (TILE + TEXT)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    prepare_dots(axes, height, width)
    write_line(axes, 0, 28, width, one_line(title, width // 15), 15, INK, bold=True)
    write_line(axes, 0, 58, width, one_line(note, width // 8), 9, GRAY)
    thumbnails = read_thumbnails([tile.path for tile in tiles], range(len(tiles)), TILE)
    for place, tile in enumerate(tiles):
        top, left = HEAD + place // columns * (TILE + TEXT), place % columns * (TILE + BETWEEN)
        draw_dots(axes, letterbox(thumbnails.get(place, EMPTY), TILE, TILE, FRAME), top, left)
        if place not in thumbnails:
            axes.text(left + TILE / 2, top + TILE / 2, "cannot be read", fontsize=8, color=GRAY, ha="center")
        below = top + TILE
        write_line(axes, left, below + 21, TILE, one_line(tile.label, LABEL_COLUMNS), 9, INK, bold=True)
        instead = f"→ {one_line(tile.suggested, LABEL_COLUMNS - 2)}"
        write_line(axes, left, below + 40, TILE, instead, 9, ORANGE, bold=True)
        write_line(axes, left, below + 58, TILE, tile.note, 8, INK)
        write_line(axes, left, below + 75, TILE, one_line(tile.name, NAME_COLUMNS), 7.5, GRAY)
    return figure
