"""What an image file says it is, and whether it can be read to its end. Pillow only; TensorFlow is not loaded."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from pipeline.errors import DataError, shown
from pipeline.images.structure import PNG_SIGNATURE, check_png, graph_orientation, is_plain_bmp, is_whole_jpeg, walk_gif

#: More pixels than any camera gives and far fewer than a decompression bomb: 100 megapixels of RGB are 300 MB.
PIXEL_LIMIT = 100_000_000

#: More than an image of `PIXEL_LIMIT` pixels can need; a disk image named .jpg is not read into memory.
BYTE_LIMIT = 2**29

#: The (format, mode) pairs that `pipeline.images.graph` is proven to read like Pillow (tests/images/test_graph.py).
GRAPH_READS = frozenset(
    [("JPEG", mode) for mode in ("L", "RGB", "CMYK")]
    + [("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")]
    + [("BMP", "RGB"), ("GIF", "L"), ("GIF", "P"), ("WEBP", "RGB"), ("WEBP", "RGBA")]
)

#: Endings that make a file count as an image, and the format that each promises.
SUFFIXES = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".bmp": "BMP", ".gif": "GIF",
    ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF", ".avif": "AVIF", ".heic": "HEIF",
}  # fmt: skip

#: Pillow's plug-ins that may see a file, loaded here: asked for one that is not, `Image.open` loads all of them, and
#: some start programs (EPS).
_PLUGINS = (
    JpegImagePlugin.JpegImageFile, PngImagePlugin.PngImageFile, BmpImagePlugin.BmpImageFile,
    GifImagePlugin.GifImageFile, WebPImagePlugin.WebPImageFile, TiffImagePlugin.TiffImageFile,
    AvifImagePlugin.AvifImageFile,
)  # fmt: skip
_FORMATS = tuple(plugin.format for plugin in _PLUGINS)


#: How files begin that are often met under the name of an image, in lower case.
_OTHER_FILES = {
    b"<!doctype html": "an HTML page", b"<html": "an HTML page", b"<svg": "an SVG drawing", b"<?xml": "an XML file",
    b"{": "a JSON file", b"%!ps": "a PostScript file", b"%pdf": "a PDF file", b"simple  =": "a FITS file",
    b"pk\x03\x04": "a ZIP archive", b"\x1f\x8b": "a gzip archive", b"version https://git-lfs": "a Git LFS pointer",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Header:
    """What an image file says it is: `format` and `mode` in Pillow's words, width and height in pixels when upright."""

    format: str
    mode: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Opened:
    """A file whose header has passed all checks.

    Attributes:
        header: What it says it is.
        image: The first picture, decoded to its end; not yet turned.
        orientation: How to hold it, 1 to 8 (Exif 2.3, section 4.6.4).
        transcode: Why `pipeline.images.graph` must not read the file itself, None where it is proven to.
    """

    header: Header
    image: Image.Image
    orientation: int
    transcode: str | None


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Hides what Pillow warns of without ceasing to read. For one thread, around all that read: filters are shared."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def open_image(contents: bytes, suffix: str | None) -> Iterator[Opened]:
    """Yields an encoded image, checked by its header, then decoded to its end; errors of Pillow in the block are ours.

    The header comes first, so a decompression bomb is refused before it takes memory.

    Args:
        contents: A file's bytes.
        suffix: The file's ending, which must be that of its format; None: any.

    Raises:
        DataError: The reason, in the words of `quarantine.csv`, why the file cannot be trained on.
    """
    if not contents:
        raise DataError("the file is empty")
    try:
        with Image.open(io.BytesIO(contents), formats=_FORMATS) as image:
            yield _decoded(image, contents, suffix)
    except Image.DecompressionBombError as error:
        raise DataError(f"over {PIXEL_LIMIT:,} pixels; scale the image down") from error
    except UnidentifiedImageError as error:
        raise DataError(_unrecognised(contents, suffix)) from error
    except DataError:
        raise
    except Exception as error:  # on damaged data Pillow's plug-ins raise what they like, RuntimeError for example
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"cannot be decoded: {reason}") from error


def is_plain_jpeg(contents: bytes) -> bool:
    """Returns whether an image is a JPEG that the graph reads as Pillow does, by its header and its end alone.

    For whoever leaves decoding to the graph, and with it whether what stands between can be decoded.
    """
    try:
        with Image.open(io.BytesIO(contents), formats=("JPEG",)) as image:
            if image.width * image.height > PIXEL_LIMIT or _obstacle(image, "JPEG", contents):
                return False
            return _orientation(image) == graph_orientation(contents)
    except Exception:  # as above; `open_image` will find the reason
        return False


def read_contents(path: str | Path) -> bytes:
    """Returns a file's bytes.

    Raises:
        DataError: The reason why they cannot be read: the system's, or that it is no file of an image's size.
    """
    try:
        with open_regular(os.fspath(path)) as file:
            return file.read()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error


def open_regular(path: str) -> io.BufferedReader:
    """Returns a regular file, open for reading.

    Raises:
        DataError: It is something else, which might never end, or too large for an image.
        OSError: It cannot be opened.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise DataError("a link that leads back to itself; remove it") from error
        if os.path.islink(path):
            raise DataError(f"a link to {shown(os.readlink(path))}, which is not there; mend or remove it") from error
        raise
    if stat.S_ISDIR(found.st_mode):
        if Path(os.path.realpath(os.path.dirname(path))).is_relative_to(os.path.realpath(path)):
            raise DataError("a link that leads back to a folder above it; remove it")
        raise DataError("a folder with the name of an image; rename it")
    if not stat.S_ISREG(found.st_mode):
        raise DataError("not a file but a pipe, a socket or a device; remove it")
    if found.st_size > BYTE_LIMIT:
        raise DataError(too_large(found.st_size))
    return open(path, "rb")


def too_large(size: int) -> str:
    """Returns the reason why a file of so many bytes is no image."""
    return f"{size:,} bytes are over {BYTE_LIMIT:,}; save the image smaller"


def _decoded(image: Image.Image, contents: bytes, suffix: str | None) -> Opened:
    # Phones save several pictures in one JPEG ("MPO"); the first is an ordinary JPEG.
    format = "JPEG" if image.format == "MPO" else image.format or ""
    if suffix is not None and SUFFIXES.get(suffix.lower()) != format:
        raise DataError(f"named {suffix} but holds {format}; give it its own ending or take it out")
    limit = PIXEL_LIMIT // 2 if format == "WEBP" else PIXEL_LIMIT  # Pillow keeps a WebP four times while it decodes
    if image.width * image.height > limit:
        raise DataError(f"{image.width} x {image.height} is over {limit:,} pixels; scale the image down")
    if format == "PNG":
        check_png(contents)
    mode, obstacle = image.mode, _obstacle(image, format, contents)
    image.load()  # verify() would let a truncated JPEG through
    orientation = _orientation(image)
    obstacle = obstacle or _late_obstacle(image, format, contents, orientation)
    width, height = image.size if orientation < 5 else image.size[::-1]
    return Opened(Header(format, mode, width, height), image, orientation, obstacle)


def _orientation(image: Image.Image) -> int:
    # A damaged block raises what it likes, and the picture may be whole.
    with contextlib.suppress(Exception):
        found: int = image.getexif()[ExifTags.Base.Orientation]
        return found if found in range(1, 9) else 1
    return 1


def _obstacle(image: Image.Image, format: str, contents: bytes) -> str | None:
    """Returns why TensorFlow would read an image, not decoded yet, differently or not at all; None: it would not."""
    keyed, kind = "transparency" in image.info, (format, image.mode)
    # One colour declared transparent is ignored by TensorFlow, except in a palette PNG.
    if kind not in GRAPH_READS or (keyed and kind != ("PNG", "P")):
        return f"{format} of mode {image.mode}{' with a transparent colour' if keyed else ''}"
    tile = next(iter(getattr(image, "tile", [])), None)
    if format == "JPEG" and not is_whole_jpeg(contents):
        return "JPEG without its end marker"
    if kind == ("JPEG", "CMYK") and "adobe" not in image.info:
        return "JPEG of mode CMYK that does not say whose"  # by Adobe's, which Pillow takes all to be, 0 is full ink
    if format == "BMP" and not is_plain_bmp(contents):
        return "BMP of other than 24 bits a pixel, or with more than its pixels"
    if format == "GIF" and tile and tile.extents != (0, 0, *image.size):
        return "GIF whose first picture does not fill it"
    if format == "GIF" and walk_gif(contents).pixels > PIXEL_LIMIT:
        return f"GIF whose pictures have over {PIXEL_LIMIT:,} pixels together"
    if format == "GIF" and not walk_gif(contents).is_whole:
        return "GIF without its end"
    if kind == ("WEBP", "RGB") and getattr(image, "is_animated", False):
        return "animated WEBP without transparency"
    return None


def _late_obstacle(image: Image.Image, format: str, contents: bytes, orientation: int) -> str | None:
    """Returns the same of an image that is decoded."""
    if orientation != graph_orientation(contents):
        return f"{format} whose orientation is not noted where cameras note it"
    if format == "GIF" and image.mode in ("L", "P"):
        highest = image.getextrema()[1]
        if isinstance(highest, int | float) and highest >= walk_gif(contents).colours:
            return "GIF with a colour that its table lacks"
    return None


def _unrecognised(contents: bytes, suffix: str | None) -> str:
    """Returns why Pillow does not recognise a file."""
    if contents.startswith(PNG_SIGNATURE):
        check_png(contents)
    if contents[4:12] in (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1", b"ftypmsf1"):
        return "HEIC: convert it to JPEG or PNG"
    start = contents[:512].lstrip().lower()
    kind = next((kind for mark, kind in _OTHER_FILES.items() if start.startswith(mark)), None)
    named = f"named {suffix} but " if suffix else ""
    if kind is not None:
        return f"{named}is {kind}, not an image; take it out"
    return f"{named}holds no image that can be recognised"
