"""The charts of a data set: images per class and split, their sizes, their aspects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from pipeline.figures import AMBER, BLUE, GRAY, GREEN, INK, PURPLE, SKY, one_line
from pipeline.ingest.manifest import SPLITS, Manifest
from pipeline.pictures.layout import caption

MOST_BARS = 24
MOST_DOTS = 4000
NAME_COLUMNS = 30  # characters of a class's name beside its bar

SPLIT_COLOURS = {"train": BLUE, "validation": AMBER, "test": GREEN, "": "#999999"}
OTHER_COLOURS = (PURPLE, SKY)

ASPECTS = {"1:3": 1 / 3, "1:2": 1 / 2, "2:3": 2 / 3, "1:1": 1.0, "3:2": 3 / 2, "2:1": 2.0, "3:1": 3.0}
WIDEST = 8.0  # aspects beyond are counted in the outermost bin

Item = TypeVar("Item")


def split_names(manifest: Manifest) -> list[str]:
    """Returns the split of each image, "" for those that have none."""
    return [split or "" for split in manifest.column("split")]


def class_counts(manifest: Manifest) -> list[tuple[str, Counter[str]]]:
    """Returns each class with its images per split, the largest class first."""
    counts: dict[str, Counter[str]] = {label: Counter() for label in manifest.classes}
    for label, split in zip(manifest.column("label"), split_names(manifest), strict=True):
        counts[label][split] += 1
    return sorted(counts.items(), key=lambda item: (-item[1].total(), item[0]))


def both_ends(ranked: Sequence[Item], most: int) -> tuple[list[Item], list[Item]]:
    """Returns what is drawn of a ranking: all of it, or two thirds of `most` from its top and the rest from its end."""
    if len(ranked) <= most:
        return list(ranked), []
    tail = most // 3
    return list(ranked[: most - tail]), list(ranked[-tail:])


def bar_rows(manifest: Manifest) -> int:
    """Returns how many rows `draw_class_counts` draws."""
    return min(len(manifest.classes), MOST_BARS + 1)


def draw_class_counts(axes: Axes, manifest: Manifest) -> None:
    """Draws a bar a class, a piece of it a split, with the numbers; of very many classes the largest and smallest."""
    ranked = class_counts(manifest)
    head, tail = both_ends(ranked, MOST_BARS)
    places = [*range(len(head)), *range(len(head) + 1, len(head) + 1 + len(tail))]  # one row between them is free
    rows = head + tail
    splits = ordered_splits(split for _, counts in ranked for split in counts)
    others = (split for split in splits if split not in SPLIT_COLOURS)
    colours = SPLIT_COLOURS | dict(zip(others, cycle(OTHER_COLOURS), strict=False))
    longest = max(counts.total() for _, counts in rows)
    ends = np.zeros(len(rows))
    for split in splits:
        lengths = np.array([counts[split] for _, counts in rows])
        colour = colours[split]
        axes.barh(places, lengths, left=ends, height=0.72, color=colour, label=split or "no split")
        for place, start, length in zip(places, ends, lengths, strict=True):
            if len(splits) > 1 and length > 0.011 * longest * (1 + len(f"{length:,}")):
                axes.text(
                    start + length / 2, place, f"{length:,}", ha="center", va="center", color="white", fontsize=7.5
                )
        ends += lengths
    for place, end in zip(places, ends.astype(int), strict=True):
        axes.text(end + 0.01 * longest, place, f"{end:,}", va="center", fontsize=8.5, weight="bold", color=INK)
    _style_bars(axes, places, [label for label, _ in rows], longest)
    if tail:
        between = ranked[len(head) : -len(tail)]
        most, fewest = between[0][1].total(), between[-1][1].total()
        span = f"{most:,} images" if most == fewest else f"{fewest:,} to {most:,} images"
        axes.text(0, len(head), f"  {len(between):,} more classes, {span} each", va="center", fontsize=8.5, color=GRAY)
    if splits != [""]:
        axes.legend(frameon=False, fontsize=8.5, ncols=4, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
    caption(axes, "images per class", "the largest first")


def _style_bars(axes: Axes, places: Sequence[int], labels: Sequence[str], longest: int) -> None:
    names = [one_line(label, NAME_COLUMNS) for label in labels]
    axes.set_yticks(places, names, fontsize=8.5, parse_math=False)
    axes.set(xlim=(0, 1.1 * longest), ylim=(max(places) + 0.6, -0.6), xticks=[])
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.spines["left"].set_color("0.75")


def ordered_splits(splits: Iterable[str]) -> list[str]:
    """Returns the different splits: the three in their order, others by name, those without one last."""
    found = set(splits)
    known = [split for split in SPLITS if split in found]
    return known + sorted(found - {*SPLITS, ""}) + [""] * ("" in found)


def draw_sizes(axes: Axes, manifest: Manifest) -> None:
    """Draws width against height, a dot a size, the larger the more images have it, and lines of equal aspect."""
    sizes, counts = _sizes(manifest)
    width, height = sizes.T
    for axis, values in ((axes.xaxis, width), (axes.yaxis, height)):
        _scale(axes, axis, values, logarithmic=bool(sizes.max() > 4 * sizes.min()))
    _draw_aspect_lines(axes)
    area = np.clip(260 * counts / max(counts.max(), 20), 14, None)
    axes.scatter(width, height, s=area, color=BLUE, alpha=0.55 if len(sizes) > 1 else 1, lw=0.4, ec="white", zorder=3)
    axes.tick_params(labelsize=8, colors=GRAY)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("width in pixels", fontsize=8.5, color=GRAY, labelpad=2)
    axes.set_ylabel("height in pixels", fontsize=8.5, color=GRAY, labelpad=2)
    caption(axes, "sizes", _sizes_in_words(sizes, counts))


def _sizes(manifest: Manifest) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns the sizes there are, `(S, 2)` (width, height), and how many images have each, `(S,)` int64.

    Too many to draw are rounded to steps of 5 %.
    """
    pairs = np.column_stack([np.array(manifest.column(name), np.int64) for name in ("width", "height")])
    sizes, counts = np.unique(pairs, axis=0, return_counts=True)
    if len(sizes) > MOST_DOTS:
        rounded = np.rint(1.05 ** np.rint(np.log(pairs) / np.log(1.05))).astype(np.int64)
        sizes, counts = np.unique(rounded, axis=0, return_counts=True)
    return sizes, counts


def _sizes_in_words(sizes: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> str:
    words = [f"{width:,} x {height:,}" for width, height in sizes]
    if len(sizes) == 1:
        return f"all are {words[0]} pixels"
    area = sizes.prod(axis=1)
    span = f"{words[area.argmin()]} to {words[area.argmax()]}"
    if counts.max() == 1:
        return f"{span}; each image has its own"
    return f"{span}; most often {words[counts.argmax()]}, {counts.max():,} images (larger dots: more images)"


def _scale(axes: Axes, axis: Axis, values: npt.NDArray[np.int64], *, logarithmic: bool) -> None:
    low, high = float(values.min()), float(values.max())
    if logarithmic:
        (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log")
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_locator(NullLocator())
        limits = (low / 1.25, high * 1.25)
    else:
        margin = max(0.08 * (high - low), 0.25 * high if low == high else 0.02 * high)
        limits = (low - margin, high + margin)
        axis.set_major_locator(MaxNLocator(5, integer=True))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    (axes.set_xlim if axis is axes.xaxis else axes.set_ylim)(*limits)


def _draw_aspect_lines(axes: Axes) -> None:
    """Draws a line for each of `ASPECTS` that crosses the panel, its name where it leaves."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for name, aspect in ASPECTS.items():
        start, end = max(left, bottom * aspect), min(right, top * aspect)
        if start >= end:
            continue
        axes.plot([start, end], [start / aspect, end / aspect], color="0.82", lw=0.8, zorder=1)
        at_top = end < right  # there the caption stands above the panel, so the name stays inside
        axes.annotate(
            name, (end, end / aspect), (-3, -1) if at_top else (3, 0), textcoords="offset points", fontsize=7,
            color=GRAY, ha="right" if at_top else "left", va="top" if at_top else "center",
        )  # fmt: skip


def draw_aspects(axes: Axes, manifest: Manifest) -> None:
    """Draws how many images have each width to height, on a logarithmic axis: 2:1 lies as far from 1:1 as 1:2."""
    width, height = (np.array(manifest.column(name), np.float64) for name in ("width", "height"))
    aspects = np.clip(np.log2(width / height), -np.log2(WIDEST), np.log2(WIDEST))
    reach = max(1.2, float(np.abs(aspects).max()) * 1.05)
    axes.hist(aspects, bins=list(np.linspace(-reach, reach, 62)), color=BLUE)
    names = [name for name, aspect in ASPECTS.items() if abs(np.log2(aspect)) <= reach]
    axes.set_xticks([np.log2(ASPECTS[name]) for name in names], names)
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlim(-reach, reach)
    axes.tick_params(labelsize=8, colors=GRAY)
    axes.spines[["top", "right"]].set_visible(False)
    wide, tall = int((width > height).sum()), int((width < height).sum())
    square = len(manifest) - wide - tall
    caption(axes, "width to height", f"{tall:,} taller than wide, {square:,} square, {wide:,} wider than tall")
