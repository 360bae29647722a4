"""The one decoder against Pillow, for every kind of file that ingest lets through."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.errors import DataError
from pipeline.images import graph
from pipeline.images.graph import decode_batch, decode_image
from pipeline.images.headers import GRAPH_READS, SUFFIXES, check_image

HEIGHT, WIDTH = 37, 53

#: Pillow rounds CMYK -> RGB where libjpeg cuts off.
TOLERANCE = {"CMYK": 1.0}


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


def on_white(content: bytes) -> np.ndarray:
    """Returns Pillow's pixels over white, `(H, W, 3)` float64."""
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(image.convert("RGBA"), np.float64)
    opacity = pixels[..., 3:] / 255
    return pixels[..., :3] * opacity + 255 * (1 - opacity)


def read(content: bytes, channels: int = 3) -> np.ndarray:
    """Returns the graph's pixels at the image's own size."""
    with Image.open(io.BytesIO(content)) as image:
        size = (image.height, image.width)
    return decode_image(tf.constant(content), size, channels).numpy()


@pytest.mark.parametrize(("format", "mode"), sorted(GRAPH_READS))
def test_every_pair_is_read_like_pillow(format: str, mode: str) -> None:
    content = encoded(photo(mode), format)
    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, image.mode) == (format, mode)
    pixels = read(content)
    assert pixels.dtype == np.float32
    assert np.ptp(pixels) > 100
    np.testing.assert_allclose(pixels, on_white(content), rtol=0, atol=TOLERANCE.get(mode, 1e-3))


def bmp(bits: int, *, top_down: bool = False) -> bytes:
    """Returns a BMP of 16, 24 or 32 bits a pixel; the fourth byte is 0, as most programs leave it."""
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    pixels[..., :3] = np.asarray(photo())
    rows = pixels[..., : bits // 8].tobytes() if bits > 16 else pixels[..., :2].tobytes()
    if (WIDTH * bits // 8) % 4:  # rows end on four bytes
        rows = b"".join(row.tobytes().ljust(-(-WIDTH * bits // 32) * 4, b"\0") for row in pixels[..., : bits // 8])
    height = -HEIGHT if top_down else HEIGHT
    header = struct.pack("<IiiHHIIiiII", 40, WIDTH, height, 1, bits, 0, len(rows), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(rows), 0, 0, 54) + header + rows


def deep_png() -> bytes:
    """Returns an RGB PNG of 16 bits a value."""
    values = np.random.default_rng(0).integers(0, 65536, (HEIGHT, WIDTH * 3)).astype(">u2")
    chunks = [
        b"IHDR" + struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0),
        b"IDAT" + zlib.compress(b"".join(b"\0" + row.tobytes() for row in values)),
        b"IEND",
    ]
    framed = (struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


def gif_with_a_margin() -> bytes:
    """Returns a GIF whose first frame is smaller than its canvas."""
    content = bytearray(encoded(photo().quantize(64), "GIF"))
    content[6:10] = struct.pack("<HH", WIDTH + 9, HEIGHT + 5)
    return bytes(content)


def variants() -> dict[str, bytes]:
    """Returns files that share a (format, mode) pair with others and are coded differently."""
    turned = photo().rotate(180)
    return {
        **{f"jpeg {name}.jpg": encoded(photo(), "JPEG", subsampling=name) for name in ("4:4:4", "4:2:2", "4:2:0")},
        "progressive.jpg": encoded(photo(), "JPEG", progressive=True, quality=30),
        "stored as rgb.jpg": encoded(photo(), "JPEG", keep_rgb=True),
        "two pictures.jpg": encoded(photo(), "MPO", save_all=True, append_images=[turned]),
        **{f"palette of {2**bits}.png": encoded(photo().quantize(2**bits), "PNG", bits=bits) for bits in (1, 2, 4)},
        "palette with alpha.png": encoded(photo("RGBA").quantize(16), "PNG"),
        "palette with a key.png": encoded(photo().quantize(16), "PNG", transparency=3),
        "16 bits a value.png": deep_png(),
        "animated.gif": encoded(photo("P"), "GIF", save_all=True, append_images=[turned]),
        "gray.gif": encoded(photo("L"), "GIF"),
        "margin.gif": gif_with_a_margin(),
        "lossless.webp": encoded(photo(), "WEBP", lossless=True),
        "animated with alpha.webp": encoded(photo("RGBA"), "WEBP", save_all=True, append_images=[turned]),
        "with alpha.bmp": encoded(photo("RGBA"), "BMP"),
        **{f"{bits} bits.bmp": bmp(bits) for bits in (16, 24, 32)},
        "top down.bmp": bmp(24, top_down=True),
    }


@pytest.mark.parametrize("name", variants())
def test_a_variant_is_refused_or_read_like_pillow(name: str, tmp_path: Path) -> None:
    content = variants()[name]
    path = tmp_path / name
    path.write_bytes(content)
    try:
        check_image(path)
    except DataError:
        return
    np.testing.assert_allclose(read(content), on_white(content), rtol=0, atol=1e-3)


def test_an_opaque_animation_does_not_damage_memory(tmp_path: Path) -> None:
    """TensorFlow 2.21 writes four bytes a pixel where it made room for three. In a process that may die of it."""
    turned = photo().rotate(180)
    path = tmp_path / "animated.webp"
    path.write_bytes(encoded(photo(), "WEBP", save_all=True, append_images=[turned]))
    script = (
        "import sys, tensorflow as tf; from pipeline.images.graph import decode_image\n"
        "for _ in range(100):\n"
        "    try: decode_image(tf.io.read_file(sys.argv[1]), (8, 8), 3)\n"
        "    except tf.errors.InvalidArgumentError: pass"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(graph.__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", script, path], env=environment, capture_output=True).returncode == 0
    with pytest.raises(DataError, match="animated"):
        check_image(path)


def test_luma_is_pillows_before_its_rounding() -> None:
    content = encoded(photo(), "PNG")
    luma = read(content, channels=1)
    assert luma.shape == (HEIGHT, WIDTH, 1)
    np.testing.assert_allclose(luma[..., 0], np.asarray(photo().convert("L")), rtol=0, atol=0.51)


@pytest.mark.parametrize("size", [(32, 32), (50, 90), (150, 200)], ids=str)
def test_resize_is_pillows_antialiased_bilinear(size: tuple[int, int]) -> None:
    image = photo(size=(120, 160))
    pixels = decode_image(tf.constant(encoded(image, "PNG")), size, 3).numpy()
    expected = np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR), np.float64)
    difference = np.abs(pixels - expected)
    # Pillow rounds to whole numbers after each of its two passes.
    assert difference.mean() < 0.4
    assert difference.max() < 1.25


def test_a_batch_is_its_images() -> None:
    contents = [encoded(photo(), "JPEG"), encoded(photo("RGBA"), "PNG"), encoded(photo("P"), "GIF")]
    for channels in (1, 3):
        batch = tf.function(decode_batch)(tf.constant(contents), (16, 24), channels)
        single = [decode_image(tf.constant(content), (16, 24), channels) for content in contents]
        np.testing.assert_allclose(batch, single, rtol=0, atol=1e-4)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".webp"])
def test_a_truncated_file_raises(suffix: str) -> None:
    content = encoded(photo("P" if suffix == ".gif" else "RGB"), SUFFIXES[suffix])
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_image(tf.constant(content[: len(content) // 2]), (8, 8), 3)


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"<html>"])
def test_what_is_no_image_raises(content: bytes) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_image(tf.constant(content), (8, 8), 3)
