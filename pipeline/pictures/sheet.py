"""A sheet of samples: a row a class, images spread over it, and their mean."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.transforms import Bbox, TransformedBbox

from pipeline.errors import DataError
from pipeline.figures import GRAY, INK, one_line
from pipeline.images.arrays import Pixels, letterbox, reduce_image
from pipeline.images.headers import quiet_pillow
from pipeline.images.pixels import read_picture
from pipeline.ingest.manifest import Manifest
from pipeline.pictures.charts import both_ends, class_counts
from pipeline.pictures.layout import caption

MOST_CLASSES = 12
SAMPLES = 8
NAME_COLUMNS = 22
MOST_FOR_MEAN = 50
EVERYTHING = "all classes"
PIXELS_FOR_MEANS = 200_000_000  # of all images read for the means: large photographs take a tenth of a second each

# Pixels of the written picture.
CELL = 168  # a multiple of 8, 28 and 56: sizes of small images, which are enlarged by a whole factor
GAP = 6
BEFORE_MEAN = 24

FRAME = 244  # gray level round images that do not fill their cell

EMPTY: Pixels = np.full((1, 1, 3), FRAME, np.uint8)  # in the place of an image that cannot be read

Thumbnails = dict[int, Pixels]


@dataclass(frozen=True)
class Sheet:
    """A sheet as one picture.

    Attributes:
        pixels: `(rows x CELL + gaps, columns x CELL + gaps, 3)` uint8.
        names: what each row shows, from the top: all classes, then classes.
        notes: how many images each row is taken from and how many the mean is of.
        left_out: how many classes have no row.
    """

    pixels: Pixels
    names: tuple[str, ...]
    notes: tuple[tuple[int, int], ...]
    left_out: int


def build_sheet(manifest: Manifest) -> Sheet:
    """Returns the sheet of a data set: a row over all classes, then a row a class, the largest class first."""
    ranked = [label for label, _ in class_counts(manifest)]
    head, tail = both_ends(ranked, MOST_CLASSES)
    of_class: dict[str, list[int]] = defaultdict(list)
    for row, label in enumerate(manifest.column("label")):
        of_class[label].append(row)
    groups = [(label, of_class[label]) for label in head + tail]
    if len(groups) > 1:
        groups.insert(0, (EVERYTHING, list(range(len(manifest)))))
    width, height = (np.array(manifest.column(name), np.int64) for name in ("width", "height"))
    enough = PIXELS_FOR_MEANS / len(groups) / float((width * height).mean())
    most = int(np.clip(enough, SAMPLES, MOST_FOR_MEAN))
    chosen = [spread(rows, most) for _, rows in groups]
    thumbnails = read_thumbnails(manifest.column("path"), sorted({row for rows in chosen for row in rows}))
    form = _mean_size(width, height)
    strips, notes = [], []
    for (_, rows), used in zip(groups, chosen, strict=True):
        read = [thumbnails[row] for row in used if row in thumbnails]
        cells = [letterbox(thumbnails.get(row, EMPTY), CELL, CELL, FRAME) for row in spread(used, SAMPLES)]
        mean = mean_image(read, *form) if read else EMPTY
        strips.append(_strip(cells, letterbox(mean, CELL, CELL, FRAME)))
        notes.append((len(rows), len(read)))
    names = tuple(name for name, _ in groups)
    return Sheet(_stack(strips), names, tuple(notes), len(ranked) - len(head) - len(tail))


def spread(rows: Sequence[int], most: int) -> list[int]:
    """Returns at most `most` of the rows, evenly spread from the first to the last."""
    places = np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int))
    return [rows[place] for place in places]


def read_thumbnails(paths: Sequence[str], rows: Sequence[int], longest: int = CELL) -> Thumbnails:
    """Returns images by row, `(h, w, 3)` uint8, no longer than `longest`; those that cannot be read are left out."""

    def read(row: int) -> tuple[int, Pixels | None]:
        try:
            return row, reduce_image(read_picture(Path(paths[row]).read_bytes(), None).pixels, longest)
        except (DataError, OSError):  # deleted or damaged since the scan: a picture is not the place to complain
            return row, None

    with quiet_pillow(), ThreadPoolExecutor(2) as threads:  # each may hold a picture of a hundred megapixels
        return {row: pixels for row, pixels in threads.map(read, rows) if pixels is not None}


def mean_image(images: Sequence[Pixels], height: int, width: int) -> Pixels:
    """Returns the mean of images stretched to one size, `(height, width, 3)` uint8."""
    total = np.zeros((height, width, 3), np.float64)
    for pixels in images:
        shrinks = pixels.shape[0] >= height and pixels.shape[1] >= width
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        total += cv2.resize(pixels, (width, height), interpolation=method)
    return np.rint(total / len(images)).astype(np.uint8)


def _mean_size(width: npt.NDArray[np.int64], height: npt.NDArray[np.int64]) -> tuple[int, int]:
    """Returns (height, width) of the means: of the data set's usual form, no longer than a cell."""
    aspect = float(np.exp(np.median(np.log(width / height))))
    longest = min(CELL, float(np.median(np.maximum(width, height))))
    return max(1, round(longest / max(aspect, 1.0))), max(1, round(longest * min(aspect, 1.0)))


def _strip(cells: list[Pixels], mean: Pixels) -> Pixels:
    """Returns a row: cells from the left, free places where the class has fewer images, the mean at the right."""
    strip = np.full((CELL, SAMPLES * (CELL + GAP) + BEFORE_MEAN + CELL, 3), 255, np.uint8)
    for place, cell in enumerate(cells):
        strip[:, place * (CELL + GAP) : place * (CELL + GAP) + CELL] = cell
    strip[:, -CELL:] = mean
    return strip


def _stack(strips: list[Pixels]) -> Pixels:
    gap = np.full((GAP, strips[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([part for strip in strips for part in (strip, gap)][:-1])


def draw_sheet(axes: Axes, sheet: Sheet) -> None:
    """Draws a sheet into axes of its size, with names and numbers at its left."""
    prepare_dots(axes, *sheet.pixels.shape[:2])
    for row, (name, (count, averaged)) in enumerate(zip(sheet.names, sheet.notes, strict=True)):
        top = row * (CELL + GAP)
        draw_dots(axes, sheet.pixels[top : top + CELL], top, 0)
        middle = top + CELL / 2
        lines = _wrapped(name)
        axes.annotate(
            "\n".join(lines), (0, middle), (-8, 4), textcoords="offset points", ha="right", va="bottom", fontsize=9.5,
            weight="bold", color=INK, parse_math=False,
        )  # fmt: skip
        note = f"{count:,} image{'s' * (count != 1)}\nmean of {averaged}"
        axes.annotate(
            note, (0, middle), (-8, 0), textcoords="offset points", ha="right", va="top", fontsize=8, color=GRAY
        )
    left_out = f"; {sheet.left_out:,} classes between are not shown" if sheet.left_out else ""
    caption(axes, "samples", f"spread over each class in the order of ids{left_out}")
    at = (sheet.pixels.shape[1] - CELL, 0)
    axes.annotate("mean", at, (0, 17), textcoords="offset points", fontsize=10.5, weight="bold", color=INK)


def prepare_dots(axes: Axes, height: int, width: int) -> None:
    """Makes the pixels of the written picture the axes' coordinates, (0, 0) at the upper left."""
    axes.axis("off")
    axes.set(xlim=(0, width), ylim=(height, 0))


def draw_dots(axes: Axes, pixels: Pixels, top: int, left: int) -> None:
    """Draws pixels at a place of `prepare_dots` axes. Few at a time: matplotlib computes on 100 bytes a pixel."""
    height, width = pixels.shape[:2]
    extent = (left, left + width, top + height, top)
    # Not `imshow`, which would set the limits and the aspect of the axes to this image's.
    image = AxesImage(axes, extent=extent, interpolation="nearest", origin="upper")
    image.set_data(pixels)
    axes.add_image(image)


def write_line(
    axes: Axes, left: float, base: float, room: float, text: str, size: float, color: str, *, bold: bool = False
) -> None:
    """Writes a line on a base line of `prepare_dots` axes, from the left; what outgrows its room is cut off."""
    # Columns are counted for ordinary words: a name of capital Ws is twice as wide.
    clip = TransformedBbox(Bbox([[left, base - 40], [left + room, base + 10]]), axes.transData)
    weight = "bold" if bold else "normal"
    line = axes.text(left, base, text, fontsize=size, color=color, weight=weight, parse_math=False, clip_on=True)
    line.set_clip_box(clip)  # after the axes have set their own


def _wrapped(name: str) -> list[str]:
    """Returns a class's name in at most two lines that fit the room at the left."""
    shown = one_line(name, 400)
    if len(shown) <= NAME_COLUMNS:
        return [shown]
    space = shown.rfind(" ", 0, NAME_COLUMNS + 1)
    cut = space if space > NAME_COLUMNS // 2 else NAME_COLUMNS
    return [shown[:cut], one_line(shown[cut:], NAME_COLUMNS)]
