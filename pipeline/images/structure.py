"""What the bytes of an image file say beside its pixels, read as `pipeline.images.graph` reads it. Loads no library."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.errors import DataError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

#: A JPEG's next marker: those of restarts, and stuffed zeros, are part of a scan. A `+` for fill bytes before it would
#: find the same and take twenty times as long.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)


def check_png(contents: bytes) -> None:
    """Refuses a PNG one of whose chunks does not have the check sum it states (PNG specification, section 5.4).

    Pillow does not look at those of the pixels, libpng fails over them.

    Raises:
        DataError: The first such chunk, or the file ends before its last chunk.
    """
    data, at = memoryview(contents), len(PNG_SIGNATURE)
    while at + 12 <= len(contents):
        length, name = struct.unpack_from(">I4s", contents, at)
        end = at + 8 + length
        shown = name.decode("ascii", "replace")
        if end + 4 > len(contents):
            raise DataError(f"cannot be decoded: it ends inside its chunk {shown}")
        if zlib.crc32(data[at + 4 : end]) != struct.unpack_from(">I", contents, end)[0]:
            raise DataError(f"CRC error in its chunk {shown if shown.isalpha() else repr(name)}: the file is damaged")
        if name == b"IEND":
            return
        at = end + 4
    raise DataError("cannot be decoded: it ends before its chunk IEND")


class Gif(NamedTuple):
    """What the blocks of a GIF say (GIF89a specification, appendix A), up to the place where it is damaged.

    Attributes:
        pixels: Of all pictures together: giflib, in TensorFlow, decodes each of them.
        colours: Size of the table that the first picture's pixels point into.
        is_whole: Whether the blocks lead to the trailer.
    """

    pixels: int
    colours: int
    is_whole: bool


def walk_gif(contents: bytes) -> Gif:
    """Returns what the blocks of a GIF say."""
    pixels, table = 0, _colour_table(contents[10:11])
    colours, at = None, 13 + table
    while contents[at : at + 1] in (b"!", b","):
        if contents[at] == 0x2C and at + 10 <= len(contents):
            width, height, flags = struct.unpack_from("<HHB", contents, at + 5)
            local = _colour_table(bytes([flags]))
            pixels, colours = pixels + width * height, colours or (local or table) // 3
            at += 11 + local
        else:
            at += 2
        while at < len(contents) and contents[at]:
            at += contents[at] + 1
        at += 1
    return Gif(pixels, colours or 0, contents[at : at + 1] == b";")


def _colour_table(flags: bytes) -> int:
    """Returns the bytes that a colour table takes whose flags are given."""
    return 3 * 2 ** ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def is_plain_bmp(contents: bytes) -> bool:
    """Returns whether a BMP has 24 bits a pixel, uncompressed, and ends with them: TensorFlow takes no other."""
    if len(contents) < 54:
        return False
    start, header, width, height, _, bits, compression = struct.unpack_from("<IIiiHHI", contents, 10)
    size = start + (3 * width + 3) // 4 * 4 * abs(height)
    return header >= 40 and bits == 24 and compression == 0 and width > 0 and len(contents) == size


def is_whole_jpeg(contents: bytes) -> bool:
    """Returns whether the markers of a JPEG lead to the one that ends its first picture (ITU-T T.81, annex B)."""
    at = 2
    while (found := _MARKER.search(contents, at)) is not None:
        if found[1] == b"\xd9":
            return True
        length = int.from_bytes(contents[found.end() : found.end() + 2], "big")
        if length < 2:
            return False
        at = found.end() + length
    return False


def graph_orientation(contents: bytes) -> int:
    """Returns the EXIF orientation, 1 to 8, that `pipeline.images.orientation.read_orientation` finds."""
    tiff = _tiff_block(contents)
    if not tiff:
        return 1
    order = ">" if tiff[:1] == b"M" else "<"

    def word(at: int) -> int:
        found: int = struct.unpack_from(f"{order}H", tiff.ljust(at + 2, b"\0"), at)[0] if at < len(tiff) else 0
        return found

    high, low = (4, 6) if order == ">" else (6, 4)
    directory = len(tiff) if word(high) else word(low)
    for entry in range(min(word(directory), 1024)):
        at = directory + 2 + 12 * entry
        if word(at) == 0x0112:
            return word(at + 8) if 1 <= word(at + 8) <= 8 else 1
    return 1


def _tiff_block(contents: bytes) -> bytes:
    """Returns up to 64 KiB from the start of the TIFF structure that holds a file's EXIF tags, empty without one."""
    at = -1
    if contents[:3] == b"\xff\xd8\xff":
        at = contents.find(b"Exif\0\0", 0, 2**12)
        at = at + 6 if at >= 6 and contents[at - 4 : at - 2] == b"\xff\xe1" else -1
    elif contents[:8] == PNG_SIGNATURE and contents.find(b"eXIf", 0, 2**12) >= 0:
        at = next((start for name, start in _png_chunks(contents) if name == b"eXIf"), -1)
    elif contents[:4] == b"RIFF" and contents[8:16] == b"WEBPVP8X" and contents[20:21] and contents[20] & 8:
        at = next((start for name, start in _riff_chunks(contents) if name == b"EXIF"), -1)
    if at < 0:
        return b""
    if contents[at : at + 6] == b"Exif\0\0":
        at += 6
    return contents[at : at + 2**16]


def _png_chunks(contents: bytes) -> Iterator[tuple[bytes, int]]:
    """Yields name and start of the chunks before the pixels."""
    at = len(PNG_SIGNATURE)
    while at + 8 <= len(contents):
        length, name = struct.unpack_from(">I4s", contents, at)
        if name == b"IDAT":
            return
        yield name, at + 8
        at += length + 12


def _riff_chunks(contents: bytes) -> Iterator[tuple[bytes, int]]:
    at = 12
    while at + 8 <= len(contents):
        name, length = struct.unpack_from("<4sI", contents, at)
        yield name, at + 8
        at += 8 + length + length % 2
