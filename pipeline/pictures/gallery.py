"""The gallery: test images in groups, each beside what speaks for the answer, with what is true and what was said."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.figures import BLUE, DPI, GRAY, INK, ORANGE, one_line
from pipeline.images.arrays import Pixels, letterbox, luma, reduce_image
from pipeline.pictures.heat import blend_heat
from pipeline.pictures.sheet import EMPTY, FRAME, draw_dots, prepare_dots, write_line

if TYPE_CHECKING:
    from pipeline.models.explanation import FloatArray

# Pixels of the written picture.
SIDE = 168  # a multiple of 8, 28 and 56: sizes of small images, which are enlarged by a whole factor
WITHIN, BETWEEN = 4, 24  # an image and its heat; a tile and the next
ALONE = 72  # more room for the names under an image without its heat
TEXT = 82  # height of what stands under a tile
HEADING = 48
LINE = 26  # of the title
HEAD = 34  # between the title and the first group

#: Tiles side by side.
COLUMNS = 4

#: Characters of a heading; of a label under a tile with heat and without.
HEADING_COLUMNS, LABEL_COLUMNS, NARROW_COLUMNS = 100, 29, 19


@dataclass(frozen=True)
class Tile:
    """A test image as it is drawn.

    Attributes:
        pixels: `(H, W)`, `(H, W, 1)` or `(H, W, 3)` uint8; None leaves an empty place.
        heat: `(h, w)`, at least 0: what speaks for the predicted class, over the whole image; None: not known.
        label: The true class.
        predicted: The likeliest class.
        probability: Of the predicted class, in [0, 1].
    """

    pixels: np.ndarray | None
    heat: FloatArray | None
    label: str
    predicted: str
    probability: float

    @property
    def hit(self) -> bool:
        """Returns whether the answer is right."""
        return self.label == self.predicted


@dataclass(frozen=True)
class Group:
    """Tiles under one heading.

    Attributes:
        heading: What they have in common.
        tiles: At least one.
    """

    heading: str
    tiles: tuple[Tile, ...]


def gallery_figure(groups: Sequence[Group], title: str) -> Figure:
    """Returns the picture: a block a group, the tiles in rows, each image beside the same in gray under its heat.

    Args:
        groups: At least one.
        title: The finding, written above everything in as many lines as it takes.
    """
    heats = any(tile.heat is not None for group in groups for tile in group.tiles)
    wide = SIDE + (WITHIN + SIDE if heats else ALONE)
    width = COLUMNS * (wide + BETWEEN) - BETWEEN
    lines = textwrap.wrap(one_line(title, 600), width // 15) or [""]
    head = LINE * len(lines) + HEAD * heats
    height = head + sum(_block_height(group) for group in groups)
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    prepare_dots(axes, height, width)
    for place, line in enumerate(lines):
        write_line(axes, 0, LINE * (place + 1) - 6, width, line, 12, INK, bold=True)
    if heats:
        note = "at the right of each: Grad-CAM, bright where the image speaks for the predicted class"
        write_line(axes, 0, head - HEAD + 16, width, note, 8.5, GRAY)
    top = head
    for group in groups:
        heading = one_line(group.heading, HEADING_COLUMNS if heats else HEADING_COLUMNS * 2 // 3)
        write_line(axes, 0, top + 32, width, heading, 10.5, INK, bold=True)
        for place, tile in enumerate(group.tiles):
            row, column = divmod(place, COLUMNS)
            _draw_tile(axes, tile, top + HEADING + row * (SIDE + TEXT), column * (wide + BETWEEN), heats=heats)
        top += _block_height(group)
    return figure


def _block_height(group: Group) -> int:
    return HEADING + -(-len(group.tiles) // COLUMNS) * (SIDE + TEXT)


def _draw_tile(axes: Axes, tile: Tile, top: int, left: int, *, heats: bool) -> None:
    pixels = EMPTY if tile.pixels is None else reduce_image(_as_rgb(tile.pixels), SIDE)
    draw_dots(axes, letterbox(pixels, SIDE, SIDE, FRAME), top, left)
    room = SIDE + (WITHIN + SIDE if heats else ALONE)
    if heats:
        heat = np.zeros((1, 1), np.float32) if tile.heat is None or tile.pixels is None else tile.heat
        draw_dots(axes, _heated(pixels, heat), top, left + SIDE + WITHIN)
    columns, below = LABEL_COLUMNS if heats else NARROW_COLUMNS, top + SIDE
    write_line(axes, left, below + 21, room, f"true: {one_line(tile.label, columns)}", 9, INK)
    # Not told by the colour alone: a hit names the same class twice.
    said = f"predicted: {one_line(tile.predicted, columns - 8)}"
    write_line(axes, left, below + 41, room, said, 9, BLUE if tile.hit else ORANGE, bold=True)
    # On a line of its own: beside a name that is read from the right it would change places with it.
    write_line(axes, left, below + 61, room, f"probability {_probability(tile.probability)}", 8.5, GRAY)


def _heated(pixels: Pixels, heat: FloatArray) -> Pixels:
    """Returns the gray image in its frame, the heat over it and not over the frame."""
    gray = letterbox(np.repeat(luma(pixels)[..., np.newaxis], 3, axis=2), SIDE, SIDE, FRAME)
    inside = letterbox(np.ones(pixels.shape, np.uint8), SIDE, SIDE, 0)[..., 0] > 0
    down, across = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    place = np.s_[down[0] : down[-1] + 1, across[0] : across[-1] + 1]
    gray[place] = blend_heat(gray[place], heat)
    return gray


def _as_rgb(pixels: np.ndarray) -> Pixels:
    full = pixels if pixels.ndim == 3 else pixels[..., np.newaxis]
    return np.ascontiguousarray(np.broadcast_to(full, (*full.shape[:2], 3)))


def _probability(share: float) -> str:
    return f"{share:.3f}" if share < 0.9995 else ">0.999"
