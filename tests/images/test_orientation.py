from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from kinds import check_image
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from pipeline.images.graph import decode_image
from pipeline.images.headers import quiet_pillow
from pipeline.images.orientation import read_orientation
from pipeline.images.structure import graph_orientation

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 16, 3)).astype("uint8")


def exif(orientation: int, order: str = ">", *, before: int = 0, offset: int = 8, count: int | None = None) -> bytes:
    """Returns an EXIF block whose directory has `before` other entries in front of the orientation."""
    entries = [struct.pack(f"{order}HHII", 0x0100 + place, 4, 1, 6) for place in range(before)]
    entries.append(struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0))
    head = (b"MM" if order == ">" else b"II") + struct.pack(f"{order}HI", 42, offset)
    length = struct.pack(f"{order}H", len(entries) if count is None else count)
    return b"Exif\0\0" + head + bytes(offset - 8 if 8 <= offset < 2000 else 0) + length + b"".join(entries) + bytes(4)


def jpeg(block: bytes | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    given = {} if block is None else {"exif": block}
    Image.fromarray(PIXELS).save(buffer, "JPEG", quality=95, **given, **options)
    return buffer.getvalue()


def upright(contents: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(contents)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


@pytest.mark.parametrize("order", [">", "<"], ids=["MM", "II"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_orientations_equal_pillows(orientation: int, order: str, tmp_path: Path) -> None:
    contents = jpeg(exif(orientation, order, before=5, offset=20))
    assert int(read_orientation(tf.constant(contents))) == orientation
    wanted = upright(contents)
    size = (wanted.shape[0], wanted.shape[1])
    np.testing.assert_array_equal(decode_image(tf.constant(contents), size, 3), wanted)
    path = tmp_path / "photo.jpg"
    path.write_bytes(contents)
    header = check_image(path)
    assert (header.height, header.width) == size


@pytest.mark.parametrize("orientation", [0, 9, 255, 65535])
def test_what_is_no_orientation_is_upright(orientation: int) -> None:
    assert int(read_orientation(tf.constant(jpeg(exif(orientation))))) == 1


def test_without_exif_a_photograph_is_upright() -> None:
    assert int(read_orientation(tf.constant(jpeg()))) == 1


def test_the_word_elsewhere_in_the_file_is_not_the_segment() -> None:
    comment = jpeg(comment=exif(6))
    assert b"Exif\0\0" in comment
    assert int(read_orientation(tf.constant(comment))) == 1


def test_other_formats_are_left_alone() -> None:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    assert int(read_orientation(tf.constant(buffer.getvalue() + b"\xff\xe1\0\0" + exif(6)))) == 1


@pytest.mark.parametrize(
    "block",
    [
        exif(6, offset=60_000),  # behind the end
        exif(6, offset=2**32 - 1),
        exif(6, offset=2**31),
        exif(6, offset=3),  # inside the head
        exif(6, count=65535),
        exif(6, count=0),
        *(exif(6, before=2)[:length] for length in range(6, 50, 3)),
    ],
)
@pytest.mark.parametrize("tail", [b"", b"\xff" * 40])
def test_a_damaged_block_never_fails(block: bytes, tail: bytes, tmp_path: Path) -> None:
    contents = jpeg(block + tail)
    (tmp_path / "photo.jpg").write_bytes(contents)
    with quiet_pillow():
        assert check_image(tmp_path / "photo.jpg").format == "JPEG"
    assert 1 <= int(read_orientation(tf.constant(contents))) <= 8
    decode_image(tf.constant(contents), (8, 8), 3)


def test_random_damage_never_fails() -> None:
    numbers, block = np.random.default_rng(1), np.frombuffer(exif(6, before=3), np.uint8)
    for _ in range(100):
        damaged = block.copy()
        damaged[numbers.integers(6, len(block), 4)] = numbers.integers(0, 256, 4)
        assert 1 <= int(read_orientation(tf.constant(jpeg(damaged.tobytes())))) <= 8


@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"], ids=["bare", "prefixed"])
@pytest.mark.parametrize("format", ["PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_png_and_webp_note_it_too(orientation: int, format: str, prefix: bytes) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format, lossless=True, exif=b"Exif\0\0" + prefix + exif(orientation)[6:])
    contents = buffer.getvalue()
    assert int(read_orientation(tf.constant(contents))) == orientation
    wanted = upright(contents)
    np.testing.assert_array_equal(decode_image(tf.constant(contents), wanted.shape[:2], 3), wanted)


def test_a_word_inside_another_chunk_is_not_the_chunk() -> None:
    note = PngInfo()
    note.add_text("Comment", "eXIf" + exif(6).decode("latin-1"))
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG", pnginfo=note)
    assert b"eXIf" in buffer.getvalue()
    assert int(read_orientation(tf.constant(buffer.getvalue()))) == 1


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_the_twin_without_tensorflow_finds_the_same(format: str) -> None:
    buffer, numbers = io.BytesIO(), np.random.default_rng(2)
    Image.fromarray(PIXELS).save(buffer, format, exif=exif(6, before=2))
    whole, found = buffer.getvalue(), []
    start = whole.index(b"MM")
    for _ in range(200):
        damaged = bytearray(whole)
        for place in numbers.integers(max(0, start - 20), start + 50, 2):
            damaged[place % len(whole)] = numbers.choice([0, 1, 2, 6, 8, 255, damaged[place % len(whole)]])
        contents = bytes(damaged[: int(numbers.integers(1, 2 * len(whole)))])
        found.append(graph_orientation(contents))
        assert int(read_orientation(tf.constant(contents))) == found[-1]
    assert {1, 6} <= set(found)
