"""The picture of two runs on the same test images: how far apart, in which classes, on which images."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from pipeline.figures import BLUE, DPI, GRAY, INK, ORANGE, one_line
from pipeline.images.arrays import letterbox
from pipeline.pictures.sheet import EMPTY, FRAME, draw_dots, prepare_dots, read_thumbnails, write_line

# Pixels of the written picture.
TILE = 168  # a multiple of 8, 28 and 56: sizes of small images, which are enlarged by a whole factor
BETWEEN = 20
TEXT = 84  # height of what stands under a tile
COLUMNS = 4  # of tiles in each half
HALF = COLUMNS * (TILE + BETWEEN) - BETWEEN
MIDDLE = 64  # between the halves
WIDTH = 2 * HALF + MIDDLE
HEAD = 92
CHART_HEAD, BELOW_CHART = 64, 76  # captions above a chart, its axis and a gap below
BAR, FEWEST_BARS = 27, 3
MARKS = 135  # height of the intervals
LINE = 20  # of small text
TITLE_LINE = 34
LEFT_OF_MARKS, LEFT_OF_BARS = 96, 230
GALLERY_HEAD = 44
BEFORE_GALLERY = 16

#: Classes that are drawn, and columns of their names.
MOST_BARS, NAME_COLUMNS = 16, 24
MOST_SETTINGS = 10
TITLE_COLUMNS = 86

#: Columns that fit under a tile: of the label in bold, of an answer.
LABEL_COLUMNS, ANSWER_COLUMNS = 15, 11


@dataclass(frozen=True)
class Mark:
    """A difference with its interval, in points, B less A."""

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Bar:
    """A class: its test images, those that only B and only A is right on."""

    label: str
    images: int
    fixed: int
    broken: int


@dataclass(frozen=True)
class Tile:
    """An image on which one run is right: its file (an unreadable one leaves a gray place), its class, the answers."""

    path: str
    label: str
    said_a: str
    said_b: str
    probability_a: float
    probability_b: float


@dataclass(frozen=True)
class Gallery:
    """Images that were fixed, or that broke: how many, and at most `MOST` to draw."""

    MOST: ClassVar[int] = 12

    count: int
    tiles: Sequence[Tile]


def compare_figure(
    title: str, note: str, marks: Sequence[Mark], bars: Sequence[Bar], settings: Sequence[str], *, fixed: Gallery,
    broken: Gallery,
) -> Figure:  # fmt: skip
    """Returns the picture.

    Args:
        title: Written above everything, on two lines if need be: what was found.
        note: Written under the title: which run is A, which is B.
        marks: Differences, drawn as intervals beside zero.
        bars: All classes; those without a change are not drawn.
        settings: What differs between the recipes, a line each.
        fixed: Images at the left.
        broken: Images at the right.
    """
    heading = _title_lines(title)
    head = HEAD + TITLE_LINE * (len(heading) - 1)
    changed = _shown_bars(bars)
    beside = MARKS + BELOW_CHART + LINE * min(len(settings), MOST_SETTINGS + 1)
    gallery = head + CHART_HEAD + BEFORE_GALLERY + max(beside, max(FEWEST_BARS, len(changed)) * BAR + BELOW_CHART)
    rows = max(-(-len(half.tiles) // COLUMNS) for half in (fixed, broken))
    height = gallery + GALLERY_HEAD + rows * (TILE + TEXT)
    figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor="white")
    page = figure.add_axes((0, 0, 1, 1))
    prepare_dots(page, height, WIDTH)
    for row, line in enumerate(heading):
        write_line(page, 0, 28 + TITLE_LINE * row, WIDTH, line, 15, INK, bold=True)
    write_line(page, 0, head - 34, WIDTH, one_line(note, WIDTH // 8), 9, GRAY)
    _draw_marks(_panel(page, head, LEFT_OF_MARKS, HALF, MARKS, *_marks_words(marks)), marks)
    _write_settings(page, settings, head + CHART_HEAD + MARKS + BELOW_CHART)
    tall = max(FEWEST_BARS, len(changed)) * BAR
    _draw_bars(_panel(page, head, HALF + MIDDLE + LEFT_OF_BARS, WIDTH, tall, *_bars_words(bars, changed)), changed)
    _draw_gallery(page, fixed, "fixed: only B is right", BLUE, gallery, 0)
    _draw_gallery(page, broken, "broken: only A is right", ORANGE, gallery, HALF + MIDDLE)
    return figure


def _title_lines(title: str) -> list[str]:
    """Returns the title on one line, else on two that part where a clause ends."""
    text = one_line(title, 2 * TITLE_COLUMNS)
    ends = [found.end() for found in re.finditer("[:;] ", text[:TITLE_COLUMNS])]
    if len(text) <= TITLE_COLUMNS or not ends or len(text) - ends[-1] > TITLE_COLUMNS:
        return textwrap.wrap(text, TITLE_COLUMNS)[:2]
    return [text[: ends[-1]], text[ends[-1] :]]


def _panel(page: Axes, top: int, left: int, right: int, tall: int, name: str, text: str) -> Axes:
    """Returns the axes of a chart with room for names at its left, after its finding was written above it."""
    figure, height = page.get_figure(), page.get_ylim()[0]
    assert isinstance(figure, Figure)
    edge = right - HALF
    write_line(page, edge, top + 24, HALF, name, 10.5, INK, bold=True)
    write_line(page, edge, top + 44, HALF, text, 8, GRAY)
    box = (left / WIDTH, 1 - (top + CHART_HEAD + tall) / height, (right - left) / WIDTH, tall / height)
    return figure.add_axes(box)


def _draw_marks(axes: Axes, marks: Sequence[Mark]) -> None:
    for row, mark in enumerate(marks):
        colour = BLUE if mark.low > 0 else ORANGE if mark.high < 0 else GRAY
        axes.plot([mark.low, mark.high], [row, row], color=colour, lw=3, solid_capstyle="butt")
        for end in (mark.low, mark.high):
            axes.plot([end, end], [row - 0.12, row + 0.12], color=colour, lw=1.5)
        axes.plot(mark.value, row, "o", color=colour, ms=8)
        text = f"{mark.value:+.1f}  ({mark.low:+.1f} to {mark.high:+.1f})"
        axes.annotate(
            text,
            (mark.value, row),
            (0, 9),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=INK,
            weight="bold",
        )
    axes.axvline(0, color=INK, lw=1)
    farthest = 1.25 * max(1.0, *(abs(end) for mark in marks for end in (mark.low, mark.high)))
    axes.set(ylim=(len(marks) - 0.5, -0.75), xlim=(-farthest, farthest))
    axes.set_yticks(range(len(marks)), [mark.name for mark in marks], fontsize=10)
    axes.set_xlabel("points, B less A: left of the line A is better, right of it B", fontsize=8.5, color=GRAY)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}" if value else "0"))
    _clean(axes)


def _marks_words(marks: Sequence[Mark]) -> tuple[str, str]:
    first = marks[0]
    apart = "B is ahead" if first.low > 0 else "A is ahead" if first.high < 0 else "the interval holds 0"
    return f"{first.name}: {apart}", "the difference found, and its 95 % interval"


def _write_settings(page: Axes, settings: Sequence[str], top: int) -> None:
    """Writes what differs between the recipes, below the intervals."""
    shown = list(settings[:MOST_SETTINGS])
    if len(settings) > len(shown):
        shown.append(f"and {len(settings) - len(shown):,} more settings that differ")
    for row, line in enumerate(shown):
        write_line(page, 0, top + LINE * row, HALF, one_line(line, HALF // 8), 8, GRAY)


def _draw_bars(axes: Axes, changed: Sequence[Bar]) -> None:
    """Draws a row a class: to the right what B fixed, to the left what it broke."""
    for row, bar in enumerate(changed):
        for count, colour in ((bar.fixed, BLUE), (-bar.broken, ORANGE)):
            if count:
                axes.barh(row, count, height=0.66, color=colour)
                axes.annotate(
                    str(abs(count)), (count, row), (4 if count > 0 else -4, 0), textcoords="offset points",
                    ha="left" if count > 0 else "right", va="center", fontsize=8.5, color=INK,
                )  # fmt: skip
    axes.axvline(0, color=INK, lw=1)
    farthest = 1.2 * max([1, *(max(bar.fixed, bar.broken) for bar in changed)])
    axes.set(ylim=(max(FEWEST_BARS, len(changed)) - 0.4, -0.6), xlim=(-farthest, farthest))
    names = [f"{one_line(bar.label, NAME_COLUMNS)} ({bar.images:,})" for bar in changed]
    axes.set_yticks(range(len(changed)), names, fontsize=8.5, parse_math=False)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{abs(value):g}"))
    axes.set_xlabel("test images: left broken, right fixed", fontsize=8.5, color=GRAY)
    _clean(axes)


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8.5)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))


def _shown_bars(bars: Sequence[Bar]) -> list[Bar]:
    """Returns the classes to draw: those that changed most, from what B gained most on to what it lost most on."""
    changed = [bar for bar in bars if bar.fixed or bar.broken]
    changed.sort(key=lambda bar: (-abs(bar.fixed - bar.broken), -bar.fixed - bar.broken, bar.label))
    return sorted(changed[:MOST_BARS], key=lambda bar: (bar.broken - bar.fixed, -bar.fixed, bar.label))


def _bars_words(bars: Sequence[Bar], shown: Sequence[Bar]) -> tuple[str, str]:
    """Returns where B gained and lost most, and what is drawn of it."""
    parts = []
    if shown and shown[0].fixed > shown[0].broken:
        parts.append(f"most gained: {one_line(shown[0].label, 16)} ({shown[0].fixed - shown[0].broken:+d})")
    if shown and shown[-1].broken > shown[-1].fixed:
        parts.append(f"most lost: {one_line(shown[-1].label, 16)} ({shown[-1].fixed - shown[-1].broken:+d})")
    total = sum(bool(bar.fixed or bar.broken) for bar in bars)
    hidden = f", {len(shown)} shown" if total > len(shown) else ""
    text = f"{total:,} of {len(bars):,} classes changed{hidden}; in brackets: test images"
    return "; ".join(parts) or "no class gains or loses", text


def _draw_gallery(axes: Axes, half: Gallery, words: str, colour: str, top: int, left: int) -> None:
    few = f" ({len(half.tiles)} shown)" if len(half.tiles) < half.count else ""
    write_line(axes, left, top + 18, HALF, f"{half.count:,} {words}", 11, colour, bold=True)
    write_line(
        axes, left + 320, top + 18, HALF - 320, f"where both were surest first{few}" if half.tiles else "", 8, GRAY
    )
    thumbnails = read_thumbnails([tile.path for tile in half.tiles], range(len(half.tiles)), TILE)
    for place, tile in enumerate(half.tiles):
        above = top + GALLERY_HEAD + place // COLUMNS * (TILE + TEXT)
        beside = left + place % COLUMNS * (TILE + BETWEEN)
        draw_dots(axes, letterbox(thumbnails.get(place, EMPTY), TILE, TILE, FRAME), above, beside)
        if place not in thumbnails:
            write_line(axes, beside + 12, above + TILE / 2, TILE, "the file is gone", 8, GRAY)
        write_line(axes, beside, above + TILE + 20, TILE, one_line(tile.label, LABEL_COLUMNS), 9, INK, bold=True)
        answers = (("A", tile.said_a, tile.probability_a), ("B", tile.said_b, tile.probability_b))
        for line, (run, said, probability) in enumerate(answers):
            right = said == tile.label
            text = f"{'✓' if right else '✗'} {run} {probability:.2f}: {one_line(said, ANSWER_COLUMNS)}"
            base = above + TILE + 39 + 17 * line
            write_line(axes, beside, base, TILE, text, 8, BLUE if right else ORANGE)
