"""One look at one file: can it be read, what is in it, what is it like. Runs in worker processes; no TensorFlow."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from typing import NamedTuple

import numpy as np

from pipeline.errors import DataError
from pipeline.images.pixels import encode_png, read_bare, read_picture
from pipeline.ingest.signature import is_signed, sign
from pipeline.ingest.sources.base import shown
from pipeline.ingest.store import ContentStore

#: More than an image of `PIXEL_LIMIT` pixels can need; a disk image named .jpg is not read into memory.
BYTE_LIMIT = 2**29

#: Modes of images that have transparency.
_TRANSPARENT = ("RGBA", "LA", "PA")


class Look(NamedTuple):
    """What one look at a readable image found.

    Attributes:
        sha256: Of the file's bytes.
        pixels: SHA-256 of the decoded pixels and their size: equal for images that look the same to the last value.
        width: In pixels, upright.
        height: In pixels, upright.
        format: In Pillow's words.
        mode: In Pillow's words.
        size: Of the file, in bytes.
        orientation: How the file says to hold it, 1 to 8; a phone's photograph is often stored lying on its side.
        constant: Whether all pixels are equal.
        transcoded: Why the image was stored anew as PNG, in words; None where its own bytes are trained on.
        stored: Where that PNG is.
        signature: What near-duplicates are found by; None for small images, which are compared exactly.
    """

    sha256: str
    pixels: str
    width: int
    height: int
    format: str
    mode: str
    size: int
    orientation: int
    constant: bool
    transcoded: str | None
    stored: str | None
    signature: bytes | None


def look_at(path: str, store: ContentStore) -> Look | str:
    """Returns what is in a file, or why it cannot be trained on; one that the graph cannot read is stored as PNG.

    Raises:
        DataError: The store cannot be written.
    """
    try:
        path.encode()
        contents = _read_file(path)
        picture = read_picture(contents, os.path.splitext(path)[1])
    except UnicodeEncodeError:
        return "its name is not UTF-8; rename it"
    except DataError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    header, pixels = picture.header, picture.pixels
    bare = read_bare(contents) if header.mode in _TRANSPARENT and is_signed(pixels) else None
    return Look(
        sha256=hashlib.sha256(contents).hexdigest(),
        pixels=_pixel_digest(pixels),
        width=header.width,
        height=header.height,
        format=header.format,
        mode=header.mode,
        size=len(contents),
        orientation=picture.orientation,
        constant=bool((pixels == pixels[0, 0]).all()),
        transcoded=picture.transcode,
        stored=str(store.put(encode_png(pixels), ".png")) if picture.transcode else None,
        signature=sign(pixels, bare),
    )


def digest_of(path: str) -> str | None:
    """Returns the SHA-256 of a file's bytes in hex, None where they cannot be read."""
    try:
        return hashlib.sha256(_read_file(path)).hexdigest()
    except (DataError, OSError):
        return None


def _read_file(path: str) -> bytes:
    """Returns a regular file's bytes.

    Raises:
        DataError: It is something else, which might never end.
        OSError: It cannot be read.
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
        if os.path.realpath(os.path.dirname(path)).startswith(os.path.realpath(path)):
            raise DataError("a link that leads back to a folder above it; remove it")
        raise DataError("a folder with the name of an image; rename it")
    if not stat.S_ISREG(found.st_mode):
        raise DataError("not a file but a pipe, a socket or a device; remove it")
    if found.st_size > BYTE_LIMIT:
        raise DataError(f"{found.st_size:,} bytes are over {BYTE_LIMIT:,}; save the image smaller")
    with open(path, "rb") as file:
        return file.read()


def _pixel_digest(pixels: np.ndarray) -> str:
    digest = hashlib.sha256(f"{pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
