"""The one decoder: sizes, batches, luma and damage. What it reads of each kind of file: test_kinds.py."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from kinds import HEIGHT, KINDS, WIDTH, check_image, encoded, exif, photo
from PIL import Image

from pipeline.config import Resize
from pipeline.errors import DataError
from pipeline.images import graph
from pipeline.images.graph import decode_batch, decode_image
from pipeline.images.headers import SUFFIXES, quiet_pillow
from pipeline.images.pixels import read_picture


def read(content: bytes, channels: int = 3) -> np.ndarray:
    """Returns the graph's pixels at the image's own size."""
    with Image.open(io.BytesIO(content)) as image:
        size = (image.height, image.width)
    return decode_image(tf.constant(content), size, channels).numpy()


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


#: How a stored picture must be turned to be seen, by orientation (Exif 2.3, section 4.6.4).
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


@pytest.mark.parametrize("size", [(24, 30), (31, 31), (20, 9), (8, 50), (60, 61), (1, 7)], ids=str)
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_turned_before_or_after_is_the_same(resize: Resize, size: tuple[int, int]) -> None:
    image = photo()
    for orientation, turn in TURNS.items():
        lying = decode_image(tf.constant(encoded(image, "PNG", exif=exif(orientation))), size, 3, resize)
        upright = decode_image(tf.constant(encoded(image.transpose(turn), "PNG")), size, 3, resize)
        np.testing.assert_allclose(lying, upright, rtol=0, atol=1e-3)


@pytest.mark.parametrize("size", [(24, 30), (30, 24), (16, 64), (64, 16), (37, 53)], ids=str)
def test_crop_is_the_middle_of_pillows(size: tuple[int, int]) -> None:
    image = photo()
    scale = max(size[0] / HEIGHT, size[1] / WIDTH)
    left, top = (WIDTH - size[1] / scale) / 2, (HEIGHT - size[0] / scale) / 2
    box = (left, top, WIDTH - left, HEIGHT - top)
    wanted = np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR, box), np.float64)
    found = decode_image(tf.constant(encoded(image, "PNG")), size, 3, "crop")
    assert np.abs(found - wanted).max() < 1.25


@pytest.mark.parametrize(
    ("size", "inner"),
    [((37, 73), (37, 53)), ((74, 126), (74, 106)), ((30, 24), (16, 24)), ((8, 50), (8, 12)), ((40, 1), (2, 1))],
    ids=str,
)
def test_pad_is_pillows_picture_between_black(size: tuple[int, int], inner: tuple[int, int]) -> None:
    image = photo()
    found = decode_image(tf.constant(encoded(image, "PNG")), size, 3, "pad").numpy()
    canvas = Image.new("RGB", size[::-1])
    above, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    canvas.paste(image.resize(inner[::-1], Image.Resampling.BILINEAR), (left, above))
    assert np.abs(found - np.asarray(canvas, np.float64)).max() < 1.25
    picture = found[above : above + inner[0], left : left + inner[1]]
    assert found.sum() == pytest.approx(picture.sum())
    assert picture.min(axis=-1).max() > 0


def test_the_same_shape_needs_no_crop_and_no_border() -> None:
    content = tf.constant(encoded(photo(size=(40, 60)), "PNG"))
    stretched = decode_image(content, (20, 30), 3)
    for resize in ("crop", "pad"):
        np.testing.assert_allclose(decode_image(content, (20, 30), 3, resize), stretched, rtol=0, atol=1e-3)


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


def damaged(content: bytes, random: np.random.Generator) -> bytes:
    """Returns a file with changed, missing or added bytes."""
    at = int(random.integers(len(content)))
    some = random.integers(0, 256, int(random.integers(1, 20)), dtype=np.uint8).tobytes()
    ways = [content[:at], content[:at] + some + content[at:], content[:at] + content[at + len(some) :], content + some]
    ways += [content[:place] + some[:1] + content[place + 1 :] for place in random.integers(0, len(content), 4)]
    return ways[random.integers(len(ways))]


@pytest.mark.parametrize("format", ["jpeg", "png", "bmp", "gif", "webp"])
def test_what_the_scan_lets_through_damaged_the_graph_reads_too(format: str) -> None:
    """Else training ends over a file that ingest has passed."""
    contents = [write() for name, write in KINDS.items() if name.startswith(format)]
    random, read = np.random.default_rng(0), 0
    for _ in range(300):
        content = damaged(contents[random.integers(len(contents))], random)
        with quiet_pillow(), contextlib.suppress(DataError):
            picture = read_picture(content, None)
            if picture.transcode is None:
                pixels = decode_image(tf.constant(content), picture.pixels.shape[:2], 3)
                assert np.abs(pixels - picture.pixels).mean() <= 1.0
                read += 1
    assert read > 20
