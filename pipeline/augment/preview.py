"""The picture of a policy: a row an image; the original, each augmentation alone, then all of them together."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.augment.policy import Policy
from pipeline.figures import DPI, GRAY, one_line, save_figure

TOGETHER = 3  # columns of the whole policy: one draw says little about a random thing

# Inches.
CELL = 1.5
GAP = 0.1
GROUP_GAP = 0.3  # between the original, each alone, and all together


@dataclass(frozen=True)
class _Column:
    """One column: what stands above it, what is done to its images, and where it starts in inches."""

    title: str
    caption: str
    policy: Policy
    left: float


def save_preview(
    images: Sequence[npt.NDArray[np.uint8]], titles: Sequence[str], policy: Policy, path: Path, *, seed: int = 0
) -> None:
    """Writes a PNG grid of what a policy does to a few images.

    Args:
        images: each (H, W, C) uint8 in [0, 255], C 1 or 3; they may differ in size.
        titles: one an image, written at its left.
        policy: an empty one leaves a column of originals that says so.
        path: of the PNG; its folder exists.
        seed: the same seed draws the same picture.
    """
    columns = _columns(policy)
    width = columns[-1].left + CELL
    height = len(images) * (CELL + GAP) - GAP
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    for row, (image, title) in enumerate(zip(images, titles, strict=True)):
        bottom = height - CELL - row * (CELL + GAP)
        for index, column in enumerate(columns):
            cell = figure.add_axes((column.left / width, bottom / height, CELL / width, CELL / height))
            # Its own draw a cell: a column then shows the spread of an augmentation, not one angle many times.
            _show(cell, column.policy.apply(image, seed + row * len(columns) + index))
            if row == 0:
                _write_header(cell, column)
            if index == 0:
                _write_title(cell, title)
    save_figure(figure, path)


def _columns(policy: Policy) -> list[_Column]:
    """Returns the columns from left to right."""
    columns = [_Column("original", "" if policy else "no augmentation", Policy(), 0.0)]
    left = CELL + GROUP_GAP
    for index, (name, caption) in enumerate(zip(policy.names, policy.captions, strict=True)):
        columns.append(_Column(name.replace("_", " "), caption, policy.only(index), left))
        left += CELL + GAP
    left += GROUP_GAP - GAP
    for draw in range(TOGETHER if policy else 0):
        columns.append(_Column("all together", f"draw {draw + 1} of {TOGETHER}", policy, left))
        left += CELL + GAP
    return columns


def _show(cell: Axes, image: npt.NDArray[np.uint8]) -> None:
    """Draws an image of one or three channels into a cell, with a hairline round it."""
    shown = np.broadcast_to(image, (*image.shape[:2], 3))  # a gray color map would round some levels down
    # A pixel of a small image is a fact about it; smoothing would hide what blur and noise do there.
    small = max(image.shape[:2]) < CELL * DPI
    cell.imshow(shown, interpolation="nearest" if small else "antialiased")
    cell.set_xticks([])
    cell.set_yticks([])
    for spine in cell.spines.values():
        spine.set(color="0.75", linewidth=0.5)


def _write_header(cell: Axes, column: _Column) -> None:
    """Writes a column's title, and its caption smaller below it, above a cell."""
    _write(cell, column.caption, (0.5, 1), (0, 5), ha="center", va="baseline", size=7.5, color=GRAY)
    _write(cell, column.title, (0.5, 1), (0, 17), ha="center", va="baseline", size=9.5, weight="bold")


def _write_title(cell: Axes, title: str) -> None:
    """Writes an image's title at the left of a cell, cut after four lines."""
    lines = textwrap.wrap(one_line(title, 400), width=16, max_lines=4, placeholder=" …")
    _write(cell, "\n".join(lines), (0, 0.5), (-8, 0), ha="right", va="center", size=9)


def _write(cell: Axes, text: str, at: tuple[float, float], offset: tuple[float, float], **look: Any) -> None:
    """Writes text at a place in a cell (0 to 1), moved by an offset in points; `$` is only a character."""
    cell.annotate(text, at, offset, xycoords="axes fraction", textcoords="offset points", parse_math=False, **look)
