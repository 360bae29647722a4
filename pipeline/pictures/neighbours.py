"""The picture of an image and the images nearest to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich.cells import cell_len

from pipeline.figures import DPI, GRAY, GREEN, INK, one_line
from pipeline.images.arrays import Pixels, letterbox, reduce_image
from pipeline.pictures.sheet import EMPTY, FRAME, draw_dots, prepare_dots, read_thumbnails, write_line

# Pixels of the written picture.
TILE = 224  # a multiple of 8, 28 and 56: sizes of small images, which are enlarged by a whole factor
QUERY = 336
BETWEEN = 20
BEFORE_TILES = 56
TEXT = 96  # height of what stands under a tile
HEAD = 92

#: Characters that fit under a tile, of its label in bold, which may fill two lines, and of its name.
LABEL_COLUMNS, NAME_COLUMNS = 18, 27

FEW, COLUMNS, MANY_COLUMNS = 8, 4, 6


@dataclass(frozen=True)
class Tile:
    """A neighbour as it is drawn.

    Attributes:
        path: Where its pixels are; one that cannot be read leaves an empty place.
        name: What it is called.
        label: Its class.
        similarity: To the query, in [-1, 1].
        same_image: Whether it is the query's own file.
    """

    path: str
    name: str
    label: str
    similarity: float
    same_image: bool


def neighbours_figure(query: Pixels, name: str, tiles: Sequence[Tile], title: str, note: str) -> Figure:
    """Returns the picture: the query at the left, its neighbours in rows at the right, the nearest first.

    Args:
        query: `(H, W, 3)` uint8 of any size and form.
        name: The query's.
        tiles: At least one.
        title: Written above everything.
        note: Written under the title.
    """
    columns = min(len(tiles), COLUMNS if len(tiles) <= FEW else MANY_COLUMNS)
    rows = -(-len(tiles) // columns)
    left = QUERY + BEFORE_TILES
    width = left + columns * (TILE + BETWEEN) - BETWEEN
    height = HEAD + max(QUERY + TEXT, rows * (TILE + TEXT))
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    prepare_dots(axes, height, width)
    write_line(axes, 0, 28, width, one_line(title, width // 15), 15, INK, bold=True)
    write_line(axes, 0, 58, width, one_line(note, width // 8), 9, GRAY)
    _draw_query(axes, query, name)
    thumbnails = read_thumbnails([tile.path for tile in tiles], range(len(tiles)), TILE)
    for place, tile in enumerate(tiles):
        top, beside = HEAD + place // columns * (TILE + TEXT), left + place % columns * (TILE + BETWEEN)
        draw_dots(axes, letterbox(thumbnails.get(place, EMPTY), TILE, TILE, FRAME), top, beside)
        _write_tile(axes, tile, top, beside)
    return figure


def _draw_query(axes: Axes, query: Pixels, name: str) -> None:
    draw_dots(axes, letterbox(reduce_image(query, QUERY), QUERY, QUERY, FRAME), HEAD, 0)
    axes.add_patch(Rectangle((0, HEAD), QUERY, QUERY, fill=False, ec=INK, lw=1.5, clip_on=False))
    below = HEAD + QUERY
    write_line(axes, 0, below + 22, QUERY, "the image asked for", 9, INK, bold=True)
    write_line(axes, 0, below + 42, QUERY, one_line(name, 38), 8, GRAY)
    height, width = query.shape[:2]
    write_line(axes, 0, below + 60, QUERY, f"{width:,} x {height:,} pixels", 8, GRAY)


def _write_tile(axes: Axes, tile: Tile, top: int, left: int) -> None:
    note = "   the image itself" if tile.same_image else ""
    write_line(axes, left, top + TILE + 21, TILE, f"{tile.similarity:.3f}{note}", 9, GREEN if tile.same_image else GRAY)
    lines = _label_lines(tile.label)
    for number, line in enumerate(lines):
        write_line(axes, left, top + TILE + 40 + 17 * number, TILE, line, 9, INK, bold=True)
    write_line(axes, left, top + TILE + 41 + 17 * len(lines), TILE, one_line(tile.name, NAME_COLUMNS), 7.5, GRAY)
    if tile.same_image:
        axes.add_patch(Rectangle((left, top), TILE, TILE, fill=False, ec=GREEN, lw=2.5, clip_on=False))


def _label_lines(label: str) -> list[str]:
    """Returns a label in at most two lines that fit under a tile, parted at a space where there is one."""
    text = one_line(label, 400)
    if cell_len(text) <= LABEL_COLUMNS:
        return [text]
    cut = next(length for length in range(len(text), 0, -1) if cell_len(text[:length]) <= LABEL_COLUMNS)
    space = text.rfind(" ", 0, cut + 1)
    cut = space if space > cut // 2 else cut
    return [text[:cut], one_line(text[cut:], LABEL_COLUMNS)]
