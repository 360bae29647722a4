"""What can be computed from the pixels of one image: channels, histograms, contrast, edges, masks, crops.

Images here are upright RGB, `(H, W, 3)` uint8 in [0, 255]. Nothing changes its input. Large images are worked on in
strips of rows: a hundred megapixels take no more memory on top than a few do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

STRIP_PIXELS = 2_000_000


@dataclass(frozen=True)
class Crop:
    """A cut-out and where it was taken: `pixels` is `image[top : top + h, left : left + w]`."""

    top: int
    left: int
    pixels: Pixels


def is_gray(pixels: Pixels) -> bool:
    """Returns whether the three channels are equal everywhere."""
    return all(
        np.array_equal(strip[..., 0], strip[..., channel]) for strip in _strips(pixels) for channel in (1, 2)
    )  # strip by strip, a colour photograph is recognised in its first rows


def luma(pixels: Pixels) -> Pixels:
    """Returns the brightness 0.299 R + 0.587 G + 0.114 B, `(H, W)` uint8 in [0, 255].

    The weights are ITU-R BT.601's, which JPEG uses; OpenCV computes them in fixed point, so a level may round the other
    way. Of a gray image it is the gray level itself.
    """
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)


def channel_alone(pixels: Pixels, channel: int) -> Pixels:
    """Returns the image with the other two channels set to 0, `(H, W, 3)` uint8; the three add up to the image."""
    alone = np.zeros_like(pixels)
    alone[..., channel] = pixels[..., channel]
    return alone


def channel_histograms(pixels: Pixels) -> npt.NDArray[np.int64]:
    """Returns how many pixels have each level, `(4, 256)` int64: rows R, G, B and luma, each of sum H x W."""
    counts = np.zeros((4, 256), np.int64)
    for strip in _strips(pixels):
        planes = (*(strip[..., channel] for channel in range(3)), luma(strip))
        for row, plane in enumerate(planes):
            counts[row] += np.bincount(plane.ravel(), minlength=256)
    return counts


def histogram_mean(counts: npt.NDArray[np.int64]) -> float:
    """Returns the mean level in [0, 255] of what a histogram, `(256,)` int64, counted."""
    return float(counts @ np.arange(256) / counts.sum())


def histogram_percentile(counts: npt.NDArray[np.int64], percent: float) -> int:
    """Returns the smallest level in [0, 255] that at least `percent` of the counted pixels do not exceed."""
    return int(np.searchsorted(np.cumsum(counts), counts.sum() * percent / 100))


def stretch_contrast(pixels: Pixels, low: int, high: int) -> Pixels:
    """Returns the image with [low, high] spread over [0, 255] and the rest clipped, same shape, uint8.

    All channels are stretched alike, so that gray stays gray. Without a range (`low >= high`) nothing changes.
    """
    if low >= high:
        return pixels.copy()
    levels = (np.arange(256) - low) * 255.0 / (high - low)
    return np.rint(levels.clip(0, 255)).astype(np.uint8)[pixels]


def sobel_magnitude(gray: Pixels) -> npt.NDArray[np.float32]:
    """Returns how steep the brightness is at each pixel, `(H, W)` float32 in [0, 1443].

    It is the length of the gradient (g_x, g_y) under the 3 x 3 kernels of Sobel and Feldman, [1 2 1] across [-1 0 1];
    beyond the border the outermost pixels go on.

    Args:
        gray: `(H, W)` uint8.
    """
    across = cv2.Sobel(gray, cv2.CV_32F, 1, 0, ksize=3, borderType=cv2.BORDER_REPLICATE)
    down = cv2.Sobel(gray, cv2.CV_32F, 0, 1, ksize=3, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.magnitude(across, down), np.float32)


def circular_mask(pixels: Pixels) -> Pixels:
    """Returns the image with every pixel outside a circle set to 0, same shape, uint8.

    The circle lies in the middle and has the radius sqrt(H x W) / 2: in a square it touches the sides, in anything else
    it is cut off by the longer ones. A pixel counts by its centre.
    """
    height, width = pixels.shape[:2]
    rows = (np.arange(height) + 0.5 - height / 2)[:, None]
    columns = (np.arange(width) + 0.5 - width / 2)[None, :]
    masked = pixels.copy()
    masked[rows**2 + columns**2 > height * width / 4] = 0
    return masked


def pixel_crop(pixels: Pixels, height: int = 8, width: int = 8) -> Crop:
    """Returns the `height` x `width` pixels (fewer in a smaller image) with the largest sum of Sobel magnitudes.

    Of equals the topmost, then the leftmost.
    """
    height, width = min(height, pixels.shape[0]), min(width, pixels.shape[1])
    best, place = -1.0, (0, 0)
    # One row more on each side for Sobel, and `height - 1` more below so that no window falls between two strips.
    step = max(1, STRIP_PIXELS // pixels.shape[1])
    for top in range(0, pixels.shape[0] - height + 1, step):
        start = max(0, top - 1)
        detail = sobel_magnitude(luma(pixels[start : top + step + height]))[top - start :][: step + height - 1]
        sums = cv2.boxFilter(
            detail, cv2.CV_64F, (width, height), anchor=(0, 0), normalize=False, borderType=cv2.BORDER_CONSTANT
        )[: len(detail) - height + 1, : pixels.shape[1] - width + 1]
        row, column = np.unravel_index(int(sums.argmax()), sums.shape)
        if sums[row, column] > best + 1e-6:
            best, place = float(sums[row, column]), (top + int(row), int(column))
    top, left = place
    return Crop(top, left, pixels[top : top + height, left : left + width].copy())


def reduce_image(pixels: Pixels, longest: int) -> Pixels:
    """Returns the image no longer than `longest` on either side, `(h, w, ...)` uint8; smaller ones as they are.

    Every pixel counts (area averaging), so fine patterns do not alias.
    """
    height, width = pixels.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def letterbox(pixels: Pixels, height: int, width: int, background: int = 255) -> Pixels:
    """Returns the whole image, not stretched, in the middle of a `(height, width, 3)` uint8 frame.

    It is as large as fits. From twice its size on it is enlarged by a whole factor, so that pixels stay equal squares.
    """
    scale = min(height / pixels.shape[0], width / pixels.shape[1])
    if scale >= 2:
        fitted = pixels.repeat(int(scale), axis=0).repeat(int(scale), axis=1)
    else:
        size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
        fitted = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    frame = np.full((height, width, 3), background, np.uint8)
    top, left = (height - fitted.shape[0]) // 2, (width - fitted.shape[1]) // 2
    frame[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted
    return frame


def _strips(pixels: Pixels) -> Iterator[Pixels]:
    rows = max(1, STRIP_PIXELS // pixels.shape[1])
    for top in range(0, len(pixels), rows):
        yield pixels[top : top + rows]
