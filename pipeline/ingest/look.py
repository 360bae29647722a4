"""One look at one file: can it be read, what is in it, what is it like. Runs in worker processes; no TensorFlow."""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple

import numpy as np

from pipeline.errors import DataError
from pipeline.images.headers import open_regular, read_contents
from pipeline.images.pixels import encode_png, read_bare, read_picture
from pipeline.ingest.signature import is_signed, sign
from pipeline.ingest.store import ContentStore

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
        stored_size: Its size in bytes; one that was cut short by a power failure has another.
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
    stored_size: int | None
    signature: bytes | None


def look_at(path: str, store: ContentStore) -> Look | str:
    """Returns what is in a file, or why it cannot be trained on; one that the graph cannot read is stored as PNG.

    Raises:
        DataError: The store cannot be written.
    """
    try:
        path.encode()
        contents = read_contents(path)
        picture = read_picture(contents, os.path.splitext(path)[1] or None)
    except UnicodeEncodeError:
        return "its name is not UTF-8; rename it"
    except DataError as error:
        return str(error)
    header, pixels = picture.header, picture.pixels
    png = encode_png(pixels) if picture.transcode else None
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
        stored=str(store.put(png, ".png")) if png else None,
        stored_size=len(png) if png else None,
        signature=sign(pixels, bare),
    )


def is_kept(look: Look) -> bool:
    """Returns whether the PNG of a transcoded image is there and whole; True where there is none."""
    if look.stored is None:
        return True
    try:
        return os.path.getsize(look.stored) == look.stored_size
    except OSError:
        return False


def digest_of(path: str) -> str | None:
    """Returns the SHA-256 of a file's bytes in hex, None where they cannot be read."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (DataError, OSError):
        return None


def _pixel_digest(pixels: np.ndarray) -> str:
    digest = hashlib.sha256(f"{pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
