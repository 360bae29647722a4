"""Image files of every kind that the graph reads as they are, each with its pixels known from elsewhere."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from pipeline.errors import DataError
from pipeline.images.headers import Header, open_image, read_contents

HEIGHT, WIDTH = 37, 53

Kind = Callable[[], bytes]


def photo(mode: str = "RGB", size: tuple[int, int] = (HEIGHT, WIDTH)) -> Image.Image:
    """Returns smooth colours with an edge and some noise, and a ramp of transparency where the mode has it."""
    y, x = np.mgrid[0 : 1 : size[0] * 1j, 0 : 1 : size[1] * 1j]
    values = np.stack([x, y, (np.sin(9 * x * y) + 1) / 2, 1 - x], axis=-1) * 255
    values[size[0] // 2 :, : size[1] // 3, :3] = np.random.default_rng(0).uniform(0, 255, 3)
    values[..., :3] += np.random.default_rng(1).normal(0, 8, (*size, 3))
    pixels = values.clip(0, 255).astype(np.uint8)
    if mode == "CMYK":
        return Image.fromarray(pixels, "CMYK")  # with black in it, which convert() never makes
    return Image.fromarray(pixels, "RGBA").convert(mode if mode in ("LA", "RGBA") else "RGB").convert(mode)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


def png(*chunks: bytes) -> bytes:
    """Returns a PNG of chunks given as name and data."""
    framed = (struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


#: PNG's number and the channels that it has.
DEEP = {
    "gray": (0, [0]), "gray and alpha": (4, [0, 3]), "colour": (2, [0, 1, 2]), "colour and alpha": (6, [0, 1, 2, 3]),
}  # fmt: skip


def deep_values(kind: str) -> np.ndarray:
    """Returns `(H, W, channels)` uint16 whose lower eight bits are not those of the upper ones."""
    whole = np.asarray(photo("RGBA"), np.uint32)[..., DEEP[kind][1]] << 8
    return (whole + np.random.default_rng(2).integers(0, 256, whole.shape)).astype(np.uint16)


def deep_png(kind: str, *more: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, DEEP[kind][0], 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in deep_values(kind).astype(">u2"))
    return png(b"IHDR" + header, *more, b"IDAT" + zlib.compress(rows), b"IEND")


def deep_by_hand(kind: str) -> np.ndarray:
    """Returns the picture over white, `(H, W, 3)` float64 in [0, 255], with nothing cut off."""
    values = deep_values(kind) / 257
    colour = np.broadcast_to(values[..., :1], (HEIGHT, WIDTH, 3)) if len(DEEP[kind][1]) < 3 else values[..., :3]
    opacity = values[..., -1:] / 255 if "alpha" in kind else 1
    return colour * opacity + 255 * (1 - opacity)


def bmp(bits: int, *, top_down: bool = False) -> bytes:
    """Returns a BMP of 16, 24 or 32 bits a pixel; the fourth byte is 0, as most programs leave it."""
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    pixels[..., :3] = np.asarray(photo())
    padded = -(-WIDTH * bits // 32) * 4  # rows end on four bytes
    rows = b"".join(row.tobytes().ljust(padded, b"\0") for row in pixels[..., : bits // 8])
    height = -HEIGHT if top_down else HEIGHT
    header = struct.pack("<IiiHHIIiiII", 40, WIDTH, height, 1, bits, 0, len(rows), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(rows), 0, 0, 54) + header + rows


def _turned() -> Image.Image:
    return photo().rotate(180)


def _gray_gif() -> bytes:
    """All 256 grays, so that its table is the one that Pillow takes for gray."""
    return encoded(Image.fromarray(np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint8)), "GIF")


KINDS: dict[str, Kind] = {
    "jpeg 4:4:4": lambda: encoded(photo(), "JPEG", subsampling="4:4:4"),
    "jpeg 4:2:2": lambda: encoded(photo(), "JPEG", subsampling="4:2:2"),
    "jpeg 4:2:0": lambda: encoded(photo(), "JPEG", subsampling="4:2:0"),
    "jpeg gray": lambda: encoded(photo("L"), "JPEG"),
    "jpeg progressive": lambda: encoded(photo(), "JPEG", progressive=True, quality=30),
    "jpeg of cmyk": lambda: encoded(photo("CMYK"), "JPEG"),
    "jpeg stored as rgb": lambda: encoded(photo(), "JPEG", keep_rgb=True),
    "jpeg with restarts": lambda: encoded(photo(), "JPEG", restart_marker_blocks=2),
    "jpeg of two pictures": lambda: encoded(photo(), "MPO", save_all=True, append_images=[_turned()]),
    "jpeg with bytes behind it": lambda: encoded(photo(), "JPEG") + bytes(range(200)),
    "png gray": lambda: encoded(photo("L"), "PNG"),
    "png gray and alpha": lambda: encoded(photo("LA"), "PNG"),
    "png colour": lambda: encoded(photo(), "PNG"),
    "png colour and alpha": lambda: encoded(photo("RGBA"), "PNG"),
    "png of 1 bit": lambda: encoded(photo("1"), "PNG"),
    "png palette of 2": lambda: encoded(photo().quantize(2), "PNG", bits=1),
    "png palette of 4": lambda: encoded(photo().quantize(4), "PNG", bits=2),
    "png palette of 16": lambda: encoded(photo().quantize(16), "PNG", bits=4),
    "png palette of 256": lambda: encoded(photo().quantize(256), "PNG", bits=8),
    "png palette with a transparent colour": lambda: encoded(photo().quantize(16), "PNG", transparency=3),
    "png palette with alpha": lambda: encoded(photo("RGBA").quantize(16), "PNG"),
    "png animated": lambda: encoded(photo(), "PNG", save_all=True, append_images=[_turned()]),
    **{f"png 16 bits {kind}": lambda kind=kind: deep_png(kind) for kind in DEEP},
    "bmp": lambda: bmp(24),
    "bmp top down": lambda: bmp(24, top_down=True),
    "gif": lambda: encoded(photo("P"), "GIF", interlace=0),
    "gif interlaced": lambda: encoded(photo("P"), "GIF", interlace=1),
    "gif gray": _gray_gif,
    "gif animated": lambda: encoded(photo("P"), "GIF", save_all=True, append_images=[_turned()]),
    "webp": lambda: encoded(photo(), "WEBP"),
    "webp lossless": lambda: encoded(photo(), "WEBP", lossless=True),
    "webp with alpha": lambda: encoded(photo("RGBA"), "WEBP"),
    "webp animated with alpha": lambda: encoded(photo("RGBA"), "WEBP", save_all=True, append_images=[_turned()]),
    **{f"jpeg held as {turn}": lambda turn=turn: encoded(photo(), "JPEG", exif=exif(turn)) for turn in range(1, 9)},
    "png held as 6": lambda: encoded(photo(), "PNG", exif=exif(6)),
    "webp held as 8": lambda: encoded(photo("RGBA"), "WEBP", exif=exif(8)),
}


def by_hand(name: str) -> np.ndarray:
    """Returns a kind's picture, upright and over white, `(H, W, 3)` float64 in [0, 255]."""
    if name.startswith("png 16 bits "):
        return deep_by_hand(name.removeprefix("png 16 bits "))
    return over_white(KINDS[name]())


def over_white(content: bytes) -> np.ndarray:
    """Returns what Pillow reads of 8 bits a value, upright, over white: `(H, W, 3)` float64 in [0, 255]."""
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGBA"), np.float64)
    opacity = pixels[..., 3:] / 255
    return pixels[..., :3] * opacity + 255 * (1 - opacity)


def check_image(path: Path, *, named: bool = True) -> Header:
    """Returns the header of an image that the graph reads as it is; anything else is a `DataError`."""
    with open_image(read_contents(path), path.suffix if named else None) as opened:
        if opened.transcode:
            raise DataError(opened.transcode)
        return opened.header
