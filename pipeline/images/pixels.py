"""An image file's pixels as Pillow reads them: what the scan looks at, and what is stored where the graph cannot read.

NumPy and Pillow only; TensorFlow is not loaded.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from pipeline.errors import DataError
from pipeline.images.headers import Header, open_image

#: Converted at a time: what Pillow and NumPy need beside the picture itself stays below 50 MB.
_STRIP = 2**21


@dataclass(frozen=True, slots=True)
class Picture:
    """An image file, read.

    Attributes:
        header: What the file says it is.
        pixels: `(H, W, 3)` uint8: the first picture, upright, over white, 16 bits cut to their upper 8.
        orientation: How the file says to hold it, 1 to 8 (EXIF); `pixels` are upright already.
        transcode: Why `pipeline.images.graph` must not read the file itself ("TIFF of mode CMYK"), None where it is
            proven to give these pixels.
    """

    header: Header
    pixels: np.ndarray
    orientation: int
    transcode: str | None


def read_picture(contents: bytes, suffix: str | None) -> Picture:
    """Returns an encoded image's header and pixels. `quiet_pillow` belongs around it.

    Args:
        contents: A file's bytes.
        suffix: The file's ending, which must be that of its format; None: any.

    Raises:
        DataError: The reason, in the words of `quarantine.csv`, why the file cannot be trained on.
    """
    with open_image(contents, suffix) as opened:
        pixels = _pixels(opened.image, opened.orientation)
    return Picture(opened.header, pixels, opened.orientation, opened.transcode)


def read_bare(contents: bytes) -> np.ndarray:
    """Returns an encoded image's pixels with its transparency taken away, `(H, W, 3)` uint8, upright.

    What lies below transparent places then shows: how an image looks that was saved as JPEG without a second thought.

    Raises:
        DataError: As `read_picture`.
    """
    with open_image(contents, None) as opened:
        return _pixels(opened.image.convert("RGB"), opened.orientation)


def encode_png(pixels: np.ndarray) -> bytes:
    """Returns `(H, W, 3)` uint8 pixels as an RGB PNG; equal pixels give equal bytes."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels), "RGB").save(buffer, "PNG")
    return buffer.getvalue()


def _pixels(image: Image.Image, orientation: int) -> np.ndarray:
    width, height = image.size
    if width * height <= _STRIP and orientation == 1:
        return _over_white(image)
    pixels = np.empty((height, width, 3) if orientation < 5 else (width, height, 3), np.uint8)
    lying = _turned_back(pixels, orientation)
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        lying[top:bottom] = _over_white(image.crop((0, top, width, bottom)))
    return pixels


def _turned_back(upright: np.ndarray, orientation: int) -> np.ndarray:
    """Returns a view of an upright picture in the order in which the file holds its pixels."""
    if orientation in (3, 4, 7, 8):
        upright = upright[::-1]
    if orientation in (2, 3, 6, 7):
        upright = upright[:, ::-1]
    return upright.transpose(1, 0, 2) if orientation >= 5 else upright


def _over_white(image: Image.Image) -> np.ndarray:
    """Returns `(H, W, 3)` uint8."""
    if image.mode in ("I", "F") or (image.mode.startswith("I;") and not image.mode.startswith("I;16")):
        raise DataError(f"mode {image.mode}: values of no known range; scale them to 8 or 16 bits")
    if image.mode.startswith("I;16"):
        return _deep_over_white(np.asarray(image), image.info.get("transparency"))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        colours = np.asarray(_with_alpha(image)).astype(np.uint16)
        alpha = colours[..., 3:]
        return ((colours[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _deep_over_white(values: np.ndarray, transparent: Any) -> np.ndarray:
    gray = (values >> 8).astype(np.uint8)
    if isinstance(transparent, int):
        gray[values == transparent] = 255
    return np.repeat(gray[..., np.newaxis], 3, axis=-1)


def _with_alpha(image: Image.Image) -> Image.Image:
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        # Of a PNG with 16 bits a value, of which Pillow has kept the upper 8.
        image.info["transparency"] = tuple(value >> 8 for value in key)
    return image.convert("RGBA")
