"""The picture of what a network sees in an image: classes and what speaks for them, filters, receptive fields, maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, StrMethodFormatter

from pipeline.figures import BLUE, DPI, GRAY, GREEN, INK, ORANGE, one_line
from pipeline.images.arrays import Pixels, luma
from pipeline.models.explanation import ClassScore, Depth, Explanation, FloatArray
from pipeline.pictures.heat import blend_heat, coloured
from pipeline.pictures.sheet import FRAME, draw_dots, prepare_dots, write_line

# Pixels of the written picture.
PICTURE = 300  # side of the image, and of the heat over it
GAP = 20
CLASSES = 280  # width of the list of classes
WIDTH = 4 * PICTURE + CLASSES + 4 * GAP
HEAD = 84
CAPTION = 46  # height of the two lines above a panel
BELOW = 26  # between panels
FILTERS = (260, PICTURE + CLASSES + GAP)  # height, width
CURVE_LEFT, CURVE_AXIS = FILTERS[1] + 2 * GAP, (46, 44)  # room at the left and at the bottom for numbers
MAP, MAP_GAP, MAPS = 136, 8, 8  # of a feature map, which is lower where images are wider than high
LOWEST = 104  # as high as the lines of text beside it
NAMES = WIDTH - (MAPS + 1) * (MAP + MAP_GAP) - GAP  # width left of the maps

#: Filters that are drawn, at most, and what is left between them.
MOST_FILTERS, TILE_GAP = 96, 4

#: How much of an image is left outside of what a unit sees.
FADED = 0.3


@dataclass(frozen=True)
class _Framed:
    """An image as large as fits into a frame, in the middle of it: where it stands and what size it has there."""

    pixels: Pixels
    top: int
    left: int
    height: int
    width: int


def explain_figure(found: Explanation, title: str, note: str) -> Figure:
    """Returns the picture of an explanation.

    Args:
        found: What the network sees.
        title: Written above everything.
        note: Written under the title.
    """
    first = HEAD + CAPTION
    second = first + PICTURE + BELOW + CAPTION
    third = second + FILTERS[0] + BELOW + CAPTION
    image = _as_pixels(found.pixels)
    map_height = round(MAP * np.clip(image.shape[0] / image.shape[1], LOWEST / MAP, 1))
    height = third + len(found.depths) * (map_height + MAP_GAP)
    figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    prepare_dots(axes, height, WIDTH)
    write_line(axes, 0, 28, WIDTH, one_line(title, WIDTH // 16), 15, INK, bold=True)
    write_line(axes, 0, 58, WIDTH, one_line(note, WIDTH // 8), 9, GRAY)
    _caption(axes, first, 0, PICTURE, "the image", f"as the network takes it: {_by(image.shape[:2])} pixels")
    draw_dots(axes, _framed(image, PICTURE, PICTURE).pixels, first, 0)
    _draw_classes(axes, found.classes, first, PICTURE + GAP)
    _draw_heats(axes, image, found.classes, first, PICTURE + CLASSES + 2 * GAP)
    _draw_filters(axes, found, second)
    _draw_growth(figure, found, second)
    _draw_maps(axes, image, found.depths, third, map_height)
    return figure


def _draw_classes(axes: Axes, classes: Sequence[ClassScore], top: int, left: int) -> None:
    """Draws the classes as bars, the likeliest first."""
    if not classes:
        return
    truth = "; green: the true class" if any(score.truth for score in classes) else ""
    _caption(axes, top, left, CLASSES, "classes", f"probabilities{truth}")
    for place, score in enumerate(classes):
        base = top + place * PICTURE / 5
        write_line(axes, left, base + 20, CLASSES - 64, one_line(score.label, 22), 9, INK, bold=not place)
        write_line(axes, left + CLASSES - 52, base + 20, 60, f"{score.probability:.3f}", 9, INK, bold=not place)
        for share, colour in ((1.0, "0.93"), (score.probability, GREEN if score.truth else BLUE)):
            axes.add_patch(Rectangle((left, base + 28), share * CLASSES, 12, color=colour, lw=0))


def _draw_heats(axes: Axes, image: Pixels, classes: Sequence[ClassScore], top: int, left: int) -> None:
    """Draws what speaks for a class over the gray image, a panel a class."""
    for score in classes:
        if score.heat is None:
            continue
        says = "Grad-CAM: bright speaks for it" if score.heat.any() else "Grad-CAM: nothing speaks for it"
        _caption(axes, top, left, PICTURE, one_line(score.label, 24), f"{score.probability:.3f}   {says}")
        draw_dots(axes, _heat_over(image, score.heat), top, left)
        left += PICTURE + GAP


def _heat_over(image: Pixels, heat: FloatArray) -> Pixels:
    """Returns the gray image, `(PICTURE, PICTURE, 3)`, with the heat as colour; its largest value is brightest."""
    framed = _framed(np.repeat(luma(image)[..., np.newaxis], 3, axis=2), PICTURE, PICTURE)
    rows, columns = slice(framed.top, framed.top + framed.height), slice(framed.left, framed.left + framed.width)
    framed.pixels[rows, columns] = blend_heat(framed.pixels[rows, columns], heat)
    return framed.pixels


def _draw_filters(axes: Axes, found: Explanation, top: int) -> None:
    """Draws the first kernels as tiles, gray where a weight is 0."""
    kernels, (height, width) = found.filters.kernels[:MOST_FILTERS], FILTERS
    count = f"{len(kernels)}" + f" of {len(found.filters.kernels)}" * (len(found.filters.kernels) > MOST_FILTERS)
    text = f"{one_line(found.filters.layer, 30)}: {count} kernels of {_by(kernels.shape[1:3])}; gray: 0"
    _caption(axes, top, 0, width, "first filters", text)
    fitting = [
        side for side in range(1, 97) if (height // (side + TILE_GAP)) * (width // (side + TILE_GAP)) >= len(kernels)
    ]
    step = fitting[-1] + TILE_GAP
    canvas: Pixels = np.full((height, width, 3), 255, np.uint8)
    least = 0.1 * float(np.abs(kernels).max())
    for place, kernel in enumerate(kernels):
        row, column = divmod(place, width // step)
        tile = _framed(_kernel_pixels(kernel, least), step - TILE_GAP, step - TILE_GAP).pixels
        canvas[row * step : (row + 1) * step - TILE_GAP, column * step : (column + 1) * step - TILE_GAP] = tile
    draw_dots(axes, canvas, top, 0)


def _kernel_pixels(kernel: FloatArray, least: float) -> Pixels:
    """Returns a kernel, `(h, w, C)`, as RGB: 0 is gray, its largest weight black or white, or a full colour.

    Args:
        kernel: The weights.
        least: What counts as a full colour at the least, so that noise in a dead filter does not look like a filter.
    """
    largest = max(float(np.abs(kernel).max()), least, 1e-30)
    shades = np.rint(127.5 + 127.5 * kernel / largest).astype(np.uint8)
    return shades if shades.shape[2] == 3 else np.repeat(shades.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)


def _draw_growth(figure: Figure, found: Explanation, top: int) -> None:
    """Draws how the receptive field grows over the layers, as a curve."""
    left, (beside, below) = CURVE_LEFT, CURVE_AXIS
    gates = "; gates bring in the whole image too" if any(step.field.whole_image for step in found.growth) else ""
    text = f"pixels across that a unit depends on, layer by layer; dots: the feature maps below{gates}"
    _caption(figure.axes[0], top, left, WIDTH - left, "receptive field", text)
    height, width, whole = FILTERS[0] - below, WIDTH - left - beside, figure.get_figheight() * DPI
    chart = figure.add_axes(((left + beside) / WIDTH, 1 - (top + height) / whole, width / WIDTH, height / whole))
    numbers = [0, *(step.number for step in found.growth)]
    sizes = [1, *(max(step.field.size) for step in found.growth)]
    chart.plot(numbers, sizes, color=BLUE, lw=1.6)
    chart.fill_between(numbers, 0.5, sizes, color=BLUE, alpha=0.08, lw=0)
    image = max(found.pixels.shape[:2])
    chart.axhline(image, color=GRAY, lw=0.9, ls=(0, (4, 3)))
    under = sizes[-1] >= image
    chart.annotate(
        f"the image, {image} pixels", (1 if under else 0, image), (-4 if under else 4, -4 if under else 3),
        xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=8, color=GRAY,
        ha="right" if under else "left", va="top" if under else "bottom",
    )  # fmt: skip
    shown = {depth.layer for depth in found.depths}
    for step in found.growth:
        if step.layer in shown:
            size = max(step.field.size)
            chart.plot(step.number, size, "o", color=ORANGE, ms=5, clip_on=False)
            chart.annotate(
                f"{size:,}", (step.number, size), (-4, 3), textcoords="offset points", fontsize=8.5, color=INK,
                ha="right", va="bottom", path_effects=[withStroke(linewidth=2.5, foreground="white")],
            )  # fmt: skip
    _finish_chart(chart, numbers[-1], 1.9 * max(*sizes, image))


def _finish_chart(chart: Axes, last: int, highest: float) -> None:
    chart.set_yscale("log", base=2)
    chart.set(xlim=(0, last * 1.01), ylim=(1, highest))
    ticks = [2**power for power in range(13) if 2**power <= highest]
    chart.yaxis.set_major_locator(FixedLocator(ticks[:: 1 if len(ticks) < 7 else 2]))
    chart.yaxis.set_minor_locator(NullLocator())
    chart.xaxis.set_major_locator(MaxNLocator(integer=True))
    chart.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    chart.tick_params(labelsize=8, colors=GRAY, length=3)
    chart.set_xlabel("layers, from the image to the features", fontsize=8, color=GRAY, loc="right")
    chart.spines[["top", "right"]].set_visible(False)
    chart.spines[["left", "bottom"]].set_color("0.7")


def _draw_maps(axes: Axes, image: Pixels, depths: Sequence[Depth], top: int, height: int) -> None:
    """Draws a row a depth: the strongest feature maps, and what one of their units sees of the image."""
    text = (
        f"the {MAPS} that vary most, each from its smallest value, dark, to its largest; at the right, framed, what "
        "the brightest unit of the first map sees"
    )
    _caption(axes, top, 0, WIDTH, "feature maps", text)
    for place, depth in enumerate(depths):
        row = top + place * (height + MAP_GAP)
        base = row + (height - LOWEST) // 2 + 24
        write_line(axes, 0, base, NAMES, one_line(depth.layer, 24), 9, INK, bold=True)
        for number, line in enumerate(_depth_lines(depth)):
            write_line(axes, 0, base + 22 + 19 * number, NAMES, line, 8, GRAY)
        canvas: Pixels = np.full((height, MAPS * (MAP + MAP_GAP), 3), 255, np.uint8)
        for number, values in enumerate(depth.maps[:MAPS]):
            left = number * (MAP + MAP_GAP)
            canvas[:, left : left + MAP] = _framed(_map_pixels(values), height, MAP).pixels
        draw_dots(axes, canvas, row, NAMES)
        _draw_seen(axes, image, depth, row, height)


def _depth_lines(depth: Depth) -> list[str]:
    down, across = depth.field.stride
    step = f"{down:,}" if down == across else _by(depth.field.stride)
    return [
        f"{_by(depth.shape[:2])} units, {depth.shape[2]:,} channels",
        f"a unit sees {_by(depth.field.size)} pixels",
        f"the next one, {step} pixel{'s' * (step != '1')} on",
    ]


def _draw_seen(axes: Axes, image: Pixels, depth: Depth, top: int, height: int) -> None:
    """Draws the image, pale but for what a unit of a feature map sees."""
    box = depth.field.box(depth.peak, image.shape[:2])
    pale = np.rint(FADED * image + (1 - FADED) * 255).astype(np.uint8)
    seen = np.s_[box[0] : box[2], box[1] : box[3]]
    pale[seen] = image[seen]
    framed, left = _framed(pale, height, MAP), WIDTH - MAP
    draw_dots(axes, framed.pixels, top, left)
    down, across = framed.height / image.shape[0], framed.width / image.shape[1]
    corner = (left + framed.left + box[1] * across, top + framed.top + box[0] * down)
    size = ((box[3] - box[1]) * across, (box[2] - box[0]) * down)
    axes.add_patch(Rectangle(corner, *size, fill=False, ec=ORANGE, lw=1.8, clip_on=False))


def _map_pixels(values: FloatArray) -> Pixels:
    low, high = float(values.min()), float(values.max())
    return coloured((values - low) / max(high - low, 1e-30), "magma")


def _as_pixels(values: FloatArray) -> Pixels:
    """Returns `(H, W, 1 or 3)` float in [0, 255] as RGB."""
    rounded = np.rint(values).clip(0, 255).astype(np.uint8)
    return rounded if rounded.shape[2] == 3 else np.repeat(rounded, 3, axis=2)


def _framed(pixels: Pixels, height: int, width: int) -> _Framed:
    """Returns an image in a frame of `(height, width)`; what is enlarged four times and more keeps its squares."""
    scale = min(height / pixels.shape[0], width / pixels.shape[1])
    rows, columns = (max(1, round(length * scale)) for length in pixels.shape[:2])
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR if scale < 4 else cv2.INTER_NEAREST
    frame: Pixels = np.full((height, width, 3), FRAME, np.uint8)
    top, left = (height - rows) // 2, (width - columns) // 2
    frame[top : top + rows, left : left + columns] = cv2.resize(pixels, (columns, rows), interpolation=way)
    return _Framed(frame, top, left, rows, columns)


def _caption(axes: Axes, top: int, left: int, room: int, name: str, text: str) -> None:
    """Writes a panel's name in bold and a line about it in gray above the panel."""
    write_line(axes, left, top - 28, room, name, 10.5, INK, bold=True)
    write_line(axes, left, top - 9, room, text, 8, GRAY)


def _by(size: Sequence[int]) -> str:
    return f"{size[0]:,} x {size[1]:,}"
