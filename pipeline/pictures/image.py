"""The picture of one image: what it is made of, number by number."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, Rectangle
from matplotlib.patheffects import Normal, Stroke

from pipeline.figures import BLUE, GRAY, GREEN, INK, ORANGE, one_line
from pipeline.images.arrays import (
    Crop,
    Pixels,
    channel_alone,
    channel_histograms,
    circular_mask,
    histogram_mean,
    histogram_percentile,
    is_gray,
    luma,
    pixel_crop,
    reduce_image,
    sobel_magnitude,
    stretch_contrast,
)
from pipeline.images.headers import Header
from pipeline.pictures.layout import Grid, caption, show_pixels

CHANNELS = ("red", "green", "blue")
CONTOUR_COLOURS = (BLUE, GREEN, ORANGE)
CHANNEL_COLOURS = ("#D6202A", "#1E9A3C", "#2455D0")

LARGE, SMALL = 1000, 560  # longest side, in pixels, of what is drawn in a large and in a small panel
PERCENTILES = (2, 98)
CROP = 8  # pixels along the crop's shorter side: as many as leave room for three numbers in each
LEVEL_COLUMNS = (0.62, 0.8, 0.88, 1.0)  # name, min, max, mean, as shares of the panel's width


def image_figure(pixels: Pixels, title: str, facts: Mapping[str, str]) -> Figure:
    """Returns the picture of one image: itself, a crop number by number, facts, channels, gray, contrast, edges.

    Facts, histogram and crop are of every pixel; the panels of a large image are drawn from a reduced copy.

    Args:
        pixels: upright RGB, `(H, W, 3)` uint8; three equal channels are called gray and not drawn one by one.
        title: written above everything, as one line.
        facts: what only the file knows (format, mode, bytes, ...), by name, listed above what the pixels say.
    """
    gray = is_gray(pixels)
    counts = channel_histograms(pixels)
    grid = Grid(columns=4, rows=4 if gray else 6, ratio=pixels.shape[0] / pixels.shape[1], fixed_rows=(2,))
    grid.write_title(one_line(title, 90))
    _draw_crop(grid, pixels, gray)
    _draw_facts(grid.add(2, 0, columns=2), pixels, counts, facts, gray)
    _draw_histogram(grid.add(2, 2, columns=2, inset=True), counts, gray)
    small = reduce_image(pixels, SMALL)
    if not gray:
        _draw_channels(grid, small)
    _draw_derived(grid, small, counts[3], 3 if gray else 5)
    return grid.figure


def file_facts(header: Header, contents: bytes) -> dict[str, str]:
    """Returns what only the file knows, by name: its format, its mode and its length."""
    return {"format": header.format, "mode": header.mode, "file": f"{len(contents):,} bytes"}


def image_facts(pixels: Pixels, facts: Mapping[str, str]) -> dict[str, str]:
    """Returns what there is to say about an image as an array, by name, in the order it is listed."""
    height, width = pixels.shape[:2]
    return {
        **facts,
        "width x height": f"{width:,} x {height:,} = {width * height:,} pixels",
        "array": f"{type(pixels).__name__} of {pixels.dtype}",
        "shape": str(pixels.shape),
        "dimensions": str(pixels.ndim),
        "size": f"{pixels.size:,} values",
        "channels": "3, all equal: gray" if is_gray(pixels) else "3: red, green, blue",
    }


def level_facts(counts: npt.NDArray[np.int64], gray: bool) -> dict[str, tuple[int, int, float]]:
    """Returns (min, max, mean) of each channel, of luma and of all values, by name; of gray images once.

    Args:
        counts: `(4, 256)` int64 as `channel_histograms` returns them.
        gray: whether the three channels are equal.
    """
    rows = {"gray": counts[3]} if gray else dict(zip((*CHANNELS, "luma"), counts, strict=True))
    if not gray:
        rows["all values"] = counts[:3].sum(axis=0)
    present = {name: np.flatnonzero(row) for name, row in rows.items()}
    return {name: (int(present[name][0]), int(present[name][-1]), histogram_mean(row)) for name, row in rows.items()}


def contour_levels(counts: npt.NDArray[np.int64]) -> list[float]:
    """Returns the levels that contour lines are drawn at: the quartiles that lie inside the range of `counts`.

    Where all of them fall on its ends (a drawing in black and white), the middle of the range; nothing for one level.
    """
    low, high = histogram_percentile(counts, 1e-9), histogram_percentile(counts, 100)
    quartiles = {float(histogram_percentile(counts, percent)) for percent in (25, 50, 75)}
    inside = sorted(level for level in quartiles if low < level < high)
    return inside or ([(low + high) / 2] if low < high else [])


def _draw_crop(grid: Grid, pixels: Pixels, gray: bool) -> None:
    """Draws the image with a box round its most detailed place, and beside it that place number by number."""
    whole, detail = grid.add(0, 0, columns=2, rows=2), grid.add(0, 2, columns=2, rows=2)
    crop = _crop_for(detail, pixels)
    height, width = crop.pixels.shape[:2]
    show_pixels(whole, reduce_image(pixels, LARGE), extent_of=pixels)
    place = f"{_range('column', crop.left, width)}, {_range('row', crop.top, height)}"
    caption(whole, "the picture", f"the box is enlarged at the right: {place}")
    show_pixels(detail, crop.pixels)
    order = "gray level" if gray else "red, green, blue"
    caption(detail, "pixel by pixel", f"{order} of each pixel, 0 to 255, where there is most detail")
    left, top, right, bottom = crop.left - 0.5, crop.top - 0.5, crop.left + width - 0.5, crop.top + height - 0.5
    for colour, thickness in (("white", 3.2), (ORANGE, 1.6)):  # white first: an edge on a red wall
        whole.add_patch(Rectangle((left, top), width, height, fill=False, ec=colour, lw=thickness))
    detail.spines[:].set(color=ORANGE, linewidth=1.6)
    for corner, edge in (((right, top), -0.5), ((right, bottom), height - 0.5)):
        ends = ConnectionPatch(corner, (-0.5, edge), "data", "data", axesA=whole, axesB=detail, color=ORANGE, lw=0.9)
        ends.set_path_effects([Stroke(linewidth=2.2, foreground="white"), Normal()])
        grid.figure.add_artist(ends)
    _write_values(detail, crop.pixels, gray)


def _crop_for(panel: Axes, pixels: Pixels) -> Crop:
    """Returns a crop of the panel's form, its shorter side `CROP` pixels."""
    width, height = panel.get_position().size * panel.get_figure(root=True).get_size_inches()  # type: ignore[union-attr]
    shorter = min(width, height)
    return pixel_crop(pixels, round(CROP * height / shorter), round(CROP * width / shorter))


def _range(name: str, start: int, count: int) -> str:
    return f"{name} {start}" if count == 1 else f"{name}s {start}-{start + count - 1}"


def _write_values(axes: Axes, pixels: Pixels, gray: bool) -> None:
    """Writes the numbers of each pixel into it."""
    bright = luma(pixels) > 130
    for row, column in np.ndindex(pixels.shape[:2]):
        values = pixels[row, column]
        text = str(values[0]) if gray else "\n".join(str(value) for value in values)
        axes.text(
            column, row, text, ha="center", va="center", color="black" if bright[row, column] else "white",
            fontsize=11 if gray else 8, linespacing=1.1,
        )  # fmt: skip


def _draw_facts(
    axes: Axes, pixels: Pixels, counts: npt.NDArray[np.int64], facts: Mapping[str, str], gray: bool
) -> None:
    """Writes the facts at the left and the table of levels at the right."""
    axes.axis("off")
    caption(axes, "facts", "of the whole image")
    lines = image_facts(pixels, facts)
    step = min(0.1, 0.98 / len(lines))
    for place, (name, text) in enumerate(lines.items()):
        _write_cell(axes, 0, 0.96 - place * step, name, color=GRAY)
        _write_cell(axes, 0.17, 0.96 - place * step, text)
    for column, name in zip(LEVEL_COLUMNS[1:], ("min", "max", "mean"), strict=True):
        _write_cell(axes, column, 0.96, name, color=GRAY, ha="right")
    for place, (name, (low, high, mean)) in enumerate(level_facts(counts, gray).items(), start=1):
        _write_cell(axes, LEVEL_COLUMNS[0], 0.96 - place * 0.1, name, color=GRAY)
        for column, text in zip(LEVEL_COLUMNS[1:], (str(low), str(high), f"{mean:.2f}"), strict=True):
            _write_cell(axes, column, 0.96 - place * 0.1, text, ha="right")


def _write_cell(axes: Axes, x: float, y: float, text: str, *, color: str = INK, ha: str = "left") -> None:
    axes.text(x, y, one_line(text, 42), ha=ha, va="top", fontsize=9, color=color, parse_math=False)


def _draw_histogram(axes: Axes, counts: npt.NDArray[np.int64], gray: bool) -> None:
    """Draws how many pixels have each level: luma filled, the channels as lines."""
    levels = np.arange(256)
    shares = counts / counts.sum(axis=1, keepdims=True) * 100
    axes.fill_between(levels, shares[3], step="mid", color="0.8", lw=0, label="gray" if gray else "luma")
    for name, colour, share in zip(CHANNELS, CHANNEL_COLOURS, shares[: 0 if gray else 3], strict=False):
        axes.step(levels, share, where="mid", color=colour, lw=1, label=name)
    ceiling, top = _ceiling(shares[3:] if gray else shares)
    axes.set(xlim=(-2, 257), ylim=(0, ceiling), xticks=(0, 64, 128, 192, 255))
    axes.tick_params(labelsize=8, colors=GRAY)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=4, loc="lower right", bbox_to_anchor=(1, 1.06), borderaxespad=0)
    cut = f"; the highest peak, {top:.0f} %, goes beyond" if top > ceiling else ""
    caption(axes, "histogram", f"% of the pixels at each level{cut}")


def _ceiling(shares: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Returns (upper end of the axis, highest share): a level that most pixels share would flatten all others."""
    present = shares[shares > 0]
    usual, top = float(np.percentile(present, 97, method="lower")), float(present.max())
    return (1.5 * usual if top > 4 * usual else 1.05 * top), top


def _draw_channels(grid: Grid, pixels: Pixels) -> None:
    """Draws each channel as gray levels and in its colour, and in the fourth column what the three give together."""
    for channel, name in enumerate(CHANNELS):
        axes = grid.add(3, channel)
        show_pixels(axes, pixels[..., channel])
        caption(axes, f"{name} channel", "its values as gray levels")
        axes = grid.add(4, channel)
        show_pixels(axes, channel_alone(pixels, channel))
        caption(axes, f"{name} alone", "the other two set to 0")
    axes = grid.add(3, 3)
    show_pixels(axes, luma(pixels))
    caption(axes, "gray", "luma: 0.299 R + 0.587 G + 0.114 B")
    axes = grid.add(4, 3)
    show_pixels(axes, sum((channel_alone(pixels, channel) for channel in range(3)), np.zeros_like(pixels)))
    caption(axes, "red + green + blue", "the three at the left, added up")


def _draw_derived(grid: Grid, pixels: Pixels, counts: npt.NDArray[np.int64], row: int) -> None:
    """Draws contrast, contour, edges and mask."""
    low, high = (histogram_percentile(counts, percent) for percent in PERCENTILES)
    axes = grid.add(row, 0)
    show_pixels(axes, stretch_contrast(pixels, low, high))
    spread = f"{low}-{high} (2nd to 98th percentile) to 0-255" if low < high else "one level: nothing to stretch"
    caption(axes, "contrast-stretched", spread)
    gray = luma(pixels)
    axes = grid.add(row, 1)
    _draw_contour(axes, gray, contour_levels(counts))
    _draw_edges(grid.add(row, 2), gray)
    axes = grid.add(row, 3)
    show_pixels(axes, circular_mask(pixels))
    caption(axes, "circular mask", "pixels outside set to 0")


def _draw_edges(axes: Axes, gray: Pixels) -> None:
    magnitude = sobel_magnitude(gray)
    # The steepest pixel of all would leave the rest in the dark.
    white = float(np.percentile(magnitude, 99.5)) or float(magnitude.max())
    shown = magnitude / white if white else magnitude
    show_pixels(axes, np.rint(shown.clip(0, 1) * 255).astype(np.uint8))
    caption(axes, "edges", f"Sobel magnitude, white from {white:.0f}" if white else "Sobel magnitude: 0 everywhere")


def _draw_contour(axes: Axes, gray: Pixels, levels: list[float]) -> None:
    show_pixels(axes, 255 - (255 - gray) // 4)  # pale, so that lines stand out
    if not levels or min(gray.shape) < 2:
        caption(axes, "contour", "no lines: one level" if not levels else "no lines: one pixel thin")
        return
    smooth = max(gray.shape) >= 64  # noise would make every grain an island
    surface = cv2.GaussianBlur(gray, (0, 0), max(gray.shape) / 300) if smooth else gray
    # The levels are the whole image's; a reduced and smoothed copy may not reach one of them.
    reached = [level for level in levels if surface.min() < level < surface.max()]
    if reached:
        axes.contour(surface, reached, colors=CONTOUR_COLOURS[: len(reached)], linewidths=0.9)
    listed = ", ".join(f"{level:g}" for level in levels)
    caption(axes, "contour", f"lines of equal {'smoothed ' if smooth else ''}luma at {listed}")
