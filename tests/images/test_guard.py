"""Files that would take a server's memory or its neighbours' answers with them, decoded as the export decodes."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from kinds import KINDS, bmp, encoded, photo, png

from pipeline.images import guard
from pipeline.images.graph import decode_image

SIZE = (24, 30)

Decode = Callable[[list[bytes]], tuple[np.ndarray, list[str]]]


@pytest.fixture(scope="module")
def decode(tmp_path_factory: pytest.TempPathFactory) -> Decode:
    """Returns the guarded decoder as it is served: saved and loaded."""
    module, folder = tf.Module(), str(tmp_path_factory.mktemp("guard"))
    module.decode = tf.function(
        lambda contents: guard.decode_apart(contents, SIZE, 3), [tf.TensorSpec((None,), tf.string)]
    )
    tf.saved_model.save(module, folder)
    loaded = tf.saved_model.load(folder)

    def go(contents: list[bytes]) -> tuple[np.ndarray, list[str]]:
        pixels, errors = loaded.decode(tf.constant(contents, tf.string, shape=(len(contents),)))
        return pixels.numpy(), [error.decode() for error in errors.numpy()]

    return go


def png_of(width: int, height: int) -> bytes:
    return png(b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b""), b"IEND")


def jpeg_of(width: int, height: int) -> bytes:
    content = encoded(photo(), "JPEG")
    at = content.index(b"\xff\xc0") + 5  # of the frame header: height, then width (ITU-T T.81, B.2.2)
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


def gif_of(*pictures: tuple[int, int], screen: tuple[int, int] = (8, 8)) -> bytes:
    """Returns a GIF whose pictures have these sizes and no pixels to speak of."""
    blocks = [b"," + struct.pack("<HHHHB", 0, 0, *size, 0) + b"\x02\x02\x4c\x01\x00" for size in pictures]
    table = bytes(6)
    return b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + table + b"".join(blocks) + b";"


def webp_of(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF\x16\0\0\0WEBPVP8X" + struct.pack("<II", 10, 2) + canvas


BAD = {
    "empty": (b"", "the file is empty"),
    "garbage": (b"no image at all" * 9, "holds no JPEG, PNG, GIF, BMP or WebP image"),
    "zeros": (bytes(100), "holds no JPEG"),
    "one byte": (b"\xff", "holds no JPEG"),
    "garbage named JPEG": (b"\xff\xd8\xff and no more", "cannot be decoded"),
    "marker alone": (b"\xff\xd8\xff", "cannot be decoded"),
    "TIFF": (encoded(photo(), "TIFF"), "holds no JPEG"),
    "PNG bomb": (png_of(100_000, 100_000), "100000 x 100000 is over 100,000,000 pixels"),
    "PNG beyond 64 bits": (png_of(2**32 - 1, 2**32 - 1), "4294967295 x 4294967295 is over"),
    "PNG without pixels": (png_of(0, 5), "0 x 5 pixels"),
    "JPEG bomb": (jpeg_of(65_000, 65_000), "65000 x 65000 is over"),
    "GIF bomb by its screen": (gif_of((8, 8), screen=(60_000, 60_000)), "GIF whose pictures have over 100,000,000"),
    "GIF bomb by its first picture": (gif_of((60_000, 60_000)), "GIF whose pictures have over"),
    "GIF bomb by number": (gif_of(*[(8000, 8000)] * 2), "GIF whose pictures have over"),
    "WebP bomb": (webp_of(9000, 9000), "9000 x 9000 is over 50,000,000 pixels"),
    "BMP bomb": (
        b"BM" + struct.pack("<IHHIIiiHHI", 0, 0, 0, 54, 40, 2**30, -(2**30), 1, 24, 0) + bytes(20),
        "1073741824 x 1073741824 is over",
    ),
    "BMP of 32 bits": (bmp(32), "BMP of other than 24 bits a pixel"),
    "BMP of a palette": (encoded(photo("P"), "BMP"), "BMP of other than 24 bits a pixel"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_is_told_from_its_neighbours(name: str, decode: Decode) -> None:
    content, reason = BAD[name]
    good = KINDS["png colour"]()
    pixels, errors = decode([good, content, good])
    assert errors[1].startswith(reason)
    assert (errors[0], errors[2]) == ("", "")
    assert not pixels[1].any()
    np.testing.assert_array_equal(pixels[::2], decode([good, good])[0])
    assert decode([content])[1] == [errors[1]]  # alone, where nothing is left to make a batch of


@pytest.mark.parametrize("name", [name for name in KINDS if name != "jpeg with bytes behind it"])
def test_half_of_any_kind_is_bad(name: str, decode: Decode) -> None:
    content = KINDS[name]()
    # Of several pictures only the first counts, and it may be whole.
    share = 0.3 if "animated" in name or "two pictures" in name else 0.6
    _, errors = decode([content[: int(len(content) * share)]])
    assert errors != [""]


def test_all_kinds_pass_and_none_is_changed_by_bad_ones_among_them(decode: Decode) -> None:
    good = [write() for write in KINDS.values()]
    pixels, errors = decode(good)
    assert errors == [""] * len(good)
    mixed = [
        content for pair in zip(good, [content for content, _ in BAD.values()] * 9, strict=False) for content in pair
    ]
    beside, reasons = decode(mixed)
    np.testing.assert_array_equal(beside[::2], pixels)
    assert [bool(reason) for reason in reasons] == [False, True] * len(good)
    np.testing.assert_allclose(pixels[0], decode_image(good[0], SIZE, 3), atol=1e-4)


def test_no_images_no_answers(decode: Decode) -> None:
    pixels, errors = decode([])
    assert (pixels.shape, errors) == ((0, *SIZE, 3), [])


@pytest.mark.parametrize("name", ["gif", "gif interlaced", "gif gray", "gif animated"])
def test_a_gif_is_walked_to_the_same_end_as_at_ingest(name: str, decode: Decode) -> None:
    from pipeline.images.structure import walk_gif

    content = KINDS[name]()
    assert walk_gif(content).is_whole
    assert decode([content])[1] == [""]


def test_damage_anywhere_fails_nobody_else(decode: Decode) -> None:
    rng, good = np.random.default_rng(0), KINDS["png colour"]()
    damaged = []
    for write in KINDS.values():
        content = bytearray(write())
        for at in rng.integers(0, min(len(content), 400), 3):
            content[at] ^= int(rng.integers(1, 256))
        damaged.append(bytes(content))
    pixels, errors = decode([good, *damaged, good])
    assert (errors[0], errors[-1]) == ("", "")
    assert np.isfinite(pixels).all()
    np.testing.assert_array_equal(pixels[0], pixels[-1])
