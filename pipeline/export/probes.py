"""Generated images that a wrong reader gives away: each kind is one of the mistakes that are made in serving.

NumPy and Pillow only. A kind comes in many variants, and with each the file that a mistaken reader would have seen, so
that of the variants one can be chosen in which the mistake moves a given network's answer.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from pipeline.config import Resize

#: Of the colours of variants in turn: a network that is sure of loud pictures may not be of faint ones.
_CONTRASTS = (1.0, 0.5, 0.25, 0.75, 0.12, 0.35)


@dataclass(frozen=True)
class Probe:
    """One generated image.

    Attributes:
        contents: The encoded image.
        misread: What the mistaken reader sees, encoded so that nobody mistakes it.
    """

    contents: bytes
    misread: bytes


@dataclass(frozen=True)
class ProbeKind:
    """A mistake and how to provoke it.

    Attributes:
        suffix: Ending of its files.
        mistake: What the reader does that it gives away.
        build: Variant number, (H, W) of the network and its resize -> the probe.
    """

    suffix: str
    mistake: str
    build: Callable[[int, tuple[int, int], Resize], Probe]


def picture(variant: int, height: int, width: int) -> np.ndarray:
    """Returns colours that change from corner to corner, with stripes, blots and edges, `(H, W, 3)` uint8."""
    rng = np.random.default_rng(variant)
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j][..., np.newaxis]
    slope, phase = rng.uniform(-1, 1, (2, 3)), rng.uniform(0, 2 * np.pi, (2, 3))
    values = slope[0] * (x - 0.5) + slope[1] * (y - 0.5)
    values = values + 0.4 * np.sin(rng.uniform(5, 30, 3) * x + phase[0]) * np.cos(rng.uniform(5, 30, 3) * y + phase[1])
    for _ in range(4):
        centre, radius = rng.uniform(0, 1, 2), rng.uniform(0.1, 0.3)
        inside = np.hypot(y - centre[0], x - centre[1]) < radius
        values = np.where(inside, values + rng.uniform(-0.8, 0.8, 3), values)
    return _to_bytes(0.5 + 0.6 * _CONTRASTS[variant % len(_CONTRASTS)] * values + rng.uniform(-0.15, 0.15, 3))


def _fine(variant: int, height: int, width: int) -> np.ndarray:
    """Returns circles that become finer outwards, up to one pixel: what aliases becomes other circles."""
    y, x = np.mgrid[:height, :width][..., np.newaxis]
    rng = np.random.default_rng(variant)
    squares = (y - height * rng.uniform(0.2, 0.8, 3)) ** 2 + (x - width * rng.uniform(0.2, 0.8, 3)) ** 2
    waves = np.sign(np.sin(squares * np.pi / max(height, width)))
    return _to_bytes(0.5 + 0.5 * _CONTRASTS[variant % len(_CONTRASTS)] * waves)


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


def _encode(pixels: np.ndarray, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def _jpeg(pixels: np.ndarray, **options: Any) -> bytes:
    return _encode(pixels, "JPEG", quality=95, subsampling=0, **options)


def _coloured(variant: int, size: tuple[int, int], _: Resize) -> Probe:
    pixels = picture(variant, *size)
    return Probe(_encode(pixels), _encode(np.ascontiguousarray(pixels[..., ::-1])))


def _large(variant: int, size: tuple[int, int], _: Resize) -> Probe:
    step = max(3, -(-240 // min(size)))
    pixels = _fine(variant, size[0] * step, size[1] * step)
    return Probe(_jpeg(pixels), _encode(np.ascontiguousarray(pixels[step // 2 :: step, step // 2 :: step])))


def _wide(variant: int, size: tuple[int, int], resize: Resize) -> Probe:
    height, width = max(24, size[0] * 4 // 5), max(60, 2 * size[1])
    pixels = picture(variant, height, width)
    margin = max(0, width - height * size[1] // size[0]) // 2
    if resize != "crop":
        return Probe(_jpeg(pixels), _encode(np.ascontiguousarray(pixels[:, margin : width - margin])))
    squeezed = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)
    return Probe(_jpeg(pixels), _encode(np.asarray(squeezed)))


def _lying(variant: int, size: tuple[int, int], _: Resize) -> Probe:
    pixels, exif = picture(variant, size[0] + 13, size[1] + 40), Image.Exif()
    exif[0x0112] = 6
    return Probe(_jpeg(pixels, exif=exif.tobytes()), _jpeg(pixels))


def _transparent(variant: int, size: tuple[int, int], _: Resize) -> Probe:
    pixels = picture(variant, size[0] + 8, size[1] + 20)
    alpha = picture(variant + 100, size[0] + 8, size[1] + 20)[..., :1]
    on_black = (pixels.astype(np.uint16) * alpha // 255).astype(np.uint8)
    return Probe(_encode(np.concatenate([pixels, alpha], axis=-1)), _encode(on_black))


def _cmyk(variant: int, size: tuple[int, int], _: Resize) -> Probe:
    pixels, black = picture(variant, *size), picture(variant + 100, *size)[..., :1] // 2
    buffer = io.BytesIO()
    image = Image.fromarray(np.concatenate([255 - pixels, black], axis=-1), "CMYK")
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return Probe(buffer.getvalue(), _encode(255 - np.asarray(image.convert("RGB"))))


def _deep(variant: int, size: tuple[int, int], _: Resize) -> Probe:
    gray = picture(variant, *size)[..., 0]
    low = np.random.default_rng(variant).integers(0, 256, gray.shape, np.uint16)
    values = gray.astype(np.uint16) * 256 + low
    return Probe(_encode(values), _encode(np.minimum(values, 255).astype(np.uint8)))


def _gray(variant: int, size: tuple[int, int], _: Resize) -> Probe:
    gray = picture(variant, *size)[..., 1]
    return Probe(_encode(gray), _encode(np.stack([gray, 0 * gray, 0 * gray], axis=-1)))


PROBES: Mapping[str, ProbeKind] = {
    "coloured": ProbeKind(".png", "blue and red exchanged", _coloured),
    "large": ProbeKind(".jpg", "scaled down without antialiasing", _large),
    "wide": ProbeKind(".jpg", "brought to size in another way", _wide),
    "orientation-6": ProbeKind(".jpg", "EXIF orientation ignored", _lying),
    "rgba": ProbeKind(".png", "transparency over black", _transparent),
    "cmyk": ProbeKind(".jpg", "inks inverted", _cmyk),
    "16-bit": ProbeKind(".png", "16 bits cut off at 255", _deep),
    "gray": ProbeKind(".png", "gray taken for red", _gray),
}


def bad_images() -> dict[str, bytes]:
    """Returns what no reader can read, by file name: an answer is owed to what stands beside it."""
    whole = _jpeg(picture(0, 64, 64))
    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return {
        "bad-empty.jpg": b"",
        "bad-garbage.jpg": b"\xff\xd8\xff and no more",
        "bad-truncated.jpg": whole[: len(whole) // 2],
        "bad-bomb.png": bomb,
    }
