"""What an image file says it is, and whether it can be read to its end. Pillow only; TensorFlow is not loaded."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image, UnidentifiedImageError

from pipeline.errors import DataError

#: More pixels than any camera gives and far fewer than a decompression bomb: 100 megapixels of RGB are 300 MB.
PIXEL_LIMIT = 100_000_000

#: The (format, mode) pairs that `pipeline.images.graph` is proven to read like Pillow (tests/images/test_graph.py).
GRAPH_READS = frozenset(
    [("JPEG", mode) for mode in ("L", "RGB", "CMYK")]
    + [("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
    + [("BMP", "RGB"), ("GIF", "P"), ("WEBP", "RGB"), ("WEBP", "RGBA")]
)

#: Endings that make a file count as an image, and the format that each promises.
SUFFIXES = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".bmp": "BMP", ".gif": "GIF",
    ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".avif": "AVIF", ".heic": "HEIF",
}  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What an image file says it is: `format` and `mode` in Pillow's words, width and height in pixels when upright."""

    format: str
    mode: str
    width: int
    height: int


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Hides what Pillow warns of without ceasing to read. For one thread, around all that read: filters are shared."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def check_image(path: Path, *, named: bool = True) -> Header:
    """Returns the header of an image that was also decoded to its end.

    The header is read first, so a decompression bomb is refused before it takes memory.

    Args:
        path: The file.
        named: Whether its ending must be that of its format.

    Raises:
        DataError: The reason, in the words of `quarantine.csv`, why the file cannot be trained on.
    """
    try:
        if path.stat().st_size == 0:
            raise DataError("the file is empty")
        with Image.open(path) as image:
            header = Header(_format(image), image.mode, *_upright_size(image))
            if named and SUFFIXES.get(path.suffix.lower()) != header.format:
                raise DataError(f"named {path.suffix} but holds {header.format}; give it its own ending or take it out")
            _refuse_unreadable(header, "transparency" in image.info)
            _refuse_differently_read(image)
            image.load()  # verify() would let a truncated JPEG through
    except Image.DecompressionBombError as error:
        raise DataError(f"over {PIXEL_LIMIT:,} pixels; scale the image down") from error
    except UnidentifiedImageError as error:
        raise DataError(f"named {path.suffix} but holds no image that can be recognised") from error
    except DataError:
        raise
    except Exception as error:  # on damaged data Pillow's plug-ins raise what they like, RuntimeError for example
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"cannot be read: {error.strerror}") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"cannot be decoded: {reason}") from error
    return header


def _refuse_differently_read(image: Image.Image) -> None:
    """Refuses what TensorFlow reads differently within a (format, mode) pair, or not at all."""
    layout = next(iter(getattr(image, "tile", [])), None)
    if image.format == "WEBP" and image.mode == "RGB" and getattr(image, "is_animated", False):
        raise DataError("an animated WEBP without transparency: convert it to a PNG")
    if image.format == "BMP" and layout and layout.args[0] != "BGR":
        raise DataError("BMP of other than 24 bits a pixel: convert it to a PNG")
    if image.format == "GIF" and layout and layout.extents != (0, 0, *image.size):
        raise DataError("GIF whose first picture does not fill it: convert it to a PNG")


def _format(image: Image.Image) -> str:
    # Phones save several pictures in one JPEG ("MPO"); the first is an ordinary JPEG.
    return "JPEG" if image.format == "MPO" else image.format or ""


def _upright_size(image: Image.Image) -> tuple[int, int]:
    orientation = None
    if _format(image) == "JPEG":
        with contextlib.suppress(Exception):  # a damaged block raises what it likes, and the picture may be whole
            orientation = image.getexif().get(ExifTags.Base.Orientation)
    return (image.height, image.width) if orientation in (5, 6, 7, 8) else (image.width, image.height)


def _refuse_unreadable(header: Header, keyed_transparency: bool) -> None:
    if header.width * header.height > PIXEL_LIMIT:
        raise DataError(f"{header.width} x {header.height} is over {PIXEL_LIMIT:,} pixels; scale the image down")
    kind = (header.format, header.mode)
    # One colour declared transparent is ignored by TensorFlow, except in a palette PNG.
    if kind not in GRAPH_READS or (keyed_transparency and kind != ("PNG", "P")):
        transparent = " with a transparent colour" if keyed_transparency else ""
        raise DataError(f"{header.format} of mode {header.mode}{transparent}: convert it to an RGB or RGBA PNG")
