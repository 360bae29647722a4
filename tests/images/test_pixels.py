"""What the scan reads with Pillow, against NumPy by hand; and that it costs neither memory nor a foreign plug-in."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from kinds import HEIGHT, KINDS, WIDTH, bmp, deep_by_hand, deep_png, encoded, exif, over_white, photo, png
from PIL import Image

from pipeline.errors import DataError
from pipeline.images import pixels as module
from pipeline.images.graph import decode_image
from pipeline.images.headers import PIXEL_LIMIT, quiet_pillow
from pipeline.images.pixels import encode_png, read_picture

XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def gif_with_a_margin() -> bytes:
    content = bytearray(encoded(photo().quantize(64), "GIF"))
    content[6:10] = struct.pack("<HH", WIDTH + 9, HEIGHT + 5)
    return bytes(content)


def gif_of_many(count: int, side: int) -> bytes:
    """Returns an animation of frames that are all black and cost few bytes each."""
    whole = encoded(Image.new("L", (side, side)).quantize(2), "GIF")
    start = whole.index(b",\0\0\0\0", 13)
    return whole[:start] + count * whole[start:-1] + b";"


def png_held_late() -> bytes:
    """Returns a PNG whose orientation stands behind its pixels."""
    content = encoded(photo(), "PNG", exif=exif(6))
    at = content.index(b"eXIf") - 4
    end = at + 12 + struct.unpack_from(">I", content, at)[0]
    return content[:at] + content[end:-12] + content[at:end] + content[-12:]


def flat() -> Image.Image:
    """Returns a picture of so few colours that one of them fills a region."""
    return photo().quantize(8).convert("RGB")


def turned_by_xmp() -> np.ndarray:
    return over_white(encoded(photo(), "JPEG", xmp=XMP))


#: What the graph reads differently or not at all, the words for it, and the picture if Pillow's `convert` is not it.
OTHERS: dict[str, tuple[Callable[[], bytes], str, Callable[[], np.ndarray] | None]] = {
    "tiff": (lambda: encoded(photo(), "TIFF"), "TIFF of mode RGB", None),
    "tiff of cmyk": (lambda: encoded(photo("CMYK"), "TIFF"), "TIFF of mode CMYK", None),
    "tiff with alpha": (lambda: encoded(photo("RGBA"), "TIFF"), "TIFF of mode RGBA", None),
    "tiff of 16 bits": (
        lambda: encoded(Image.fromarray(np.asarray(photo("L"), np.uint16) * 257), "TIFF"), "TIFF of mode I;16",
        lambda: np.repeat(np.asarray(photo("L"), np.float64)[..., None], 3, -1),
    ),
    "avif": (lambda: encoded(photo(), "AVIF"), "AVIF of mode RGB", None),
    "bmp of 1 bit": (lambda: encoded(photo("1"), "BMP"), "BMP of mode 1", None),
    "bmp with a palette": (lambda: encoded(photo().quantize(64), "BMP"), "BMP of mode P", None),
    "bmp of 16 bits": (lambda: bmp(16), "BMP of other than 24 bits", None),
    "bmp of 32 bits": (lambda: bmp(32), "BMP of other than 24 bits", None),
    "bmp with bytes behind it": (lambda: bmp(24) + b"end", "more than its pixels", None),
    "png with a transparent colour": (
        lambda: encoded(flat(), "PNG", transparency=flat().getpixel((5, 5))),
        "PNG of mode RGB with a transparent colour", None,
    ),
    "png of 16 bits with a transparent gray": (
        lambda: png(b"IHDR" + struct.pack(">IIBBBBB", 2, 1, 16, 0, 0, 0, 0), b"tRNS\x12\x34",
                    b"IDAT" + zlib.compress(b"\0\x12\x34\x12\x35"), b"IEND"),
        "PNG of mode I;16 with a transparent colour", lambda: np.repeat([[[255.0], [18.0]]], 3, -1),
    ),
    "gif with a transparent colour": (
        lambda: encoded(photo().quantize(64), "GIF", transparency=3), "GIF of mode P with a transparent colour", None,
    ),
    "gif with a margin": (gif_with_a_margin, "GIF whose first picture does not fill it", None),
    "gif without its end": (lambda: KINDS["gif animated"]()[:-1], "GIF without its end", None),
    "gif of too many pictures": (lambda: gif_of_many(2600, 200), f"over {PIXEL_LIMIT:,} pixels together", None),
    "webp animated without alpha": (
        lambda: encoded(photo(), "WEBP", save_all=True, append_images=[photo().rotate(180)]), "animated WEBP", None,
    ),
    "jpeg held by xmp alone": (lambda: encoded(photo(), "JPEG", xmp=XMP), "JPEG whose orientation", turned_by_xmp),
    "png held as its end says": (png_held_late, "PNG whose orientation", None),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_what_the_graph_reads_otherwise_is_transcoded(name: str) -> None:
    write, words, wanted = OTHERS[name]
    content = write()
    with quiet_pillow():
        picture = read_picture(content, None)
        expected = wanted() if wanted else over_white(content)
    assert words in (picture.transcode or "")
    np.testing.assert_allclose(picture.pixels, expected, rtol=0, atol=0.51)
    stored = encode_png(picture.pixels)
    read = decode_image(tf.constant(stored), picture.pixels.shape[:2], 3)
    np.testing.assert_array_equal(read, picture.pixels)
    assert read_picture(stored, ".png").transcode is None


def test_a_stored_png_is_a_function_of_its_pixels() -> None:
    pixels = np.asarray(photo())
    assert encode_png(pixels) == encode_png(np.array(pixels.transpose(1, 0, 2)).transpose(1, 0, 2))
    assert encode_png(pixels) != encode_png(pixels[::-1])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "I;16"])
def test_strips_are_the_whole(mode: str, orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(np.asarray(photo("L"), np.uint16) * 251) if mode == "I;16" else photo(mode)
    content = encoded(image, "PNG", exif=exif(orientation))
    whole = read_picture(content, ".png").pixels
    monkeypatch.setattr(module, "_STRIP", 5 * WIDTH)
    np.testing.assert_array_equal(read_picture(content, ".png").pixels, whole)
    if mode != "I;16":
        np.testing.assert_allclose(whole, over_white(content), rtol=0, atol=0.51)


def test_the_upper_eight_of_sixteen_bits_count() -> None:
    pixels = read_picture(deep_png("gray"), ".png").pixels
    exact = deep_by_hand("gray")
    assert np.abs(pixels - exact).max() < 1
    assert len(np.unique(pixels)) > 100  # converted by Pillow, most would be 255


def damaged_chunk(name: bytes) -> bytes:
    content = bytearray(encoded(photo(), "PNG", exif=exif(3)))
    at = content.index(name) - 4
    content[at + 8 + struct.unpack_from(">I", content, at)[0]] ^= 1
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "suffix", "reason"),
    [
        (b"", ".png", "the file is empty"),
        *(
            (damaged_chunk(name), ".png", f"CRC error in its chunk {name.decode()}: the file is damaged")
            for name in (b"IHDR", b"eXIf", b"IDAT", b"IEND")
        ),
        (encoded(photo(), "PNG")[:-12], ".png", "cannot be decoded: it ends before its chunk IEND"),
        (encoded(photo(), "PNG")[:500], ".png", "cannot be decoded: it ends inside its chunk IDAT"),
        (b"\0\0\0\x18ftypheic" + bytes(40), ".heic", "HEIC: convert it to JPEG or PNG"),
        (b"\0\0\0\x18ftypmif1" + bytes(40), ".jpg", "HEIC: convert it to JPEG or PNG"),
        (
            encoded(photo("L").convert("F"), "TIFF"), ".tif",
            "mode F: values of no known range; scale them to 8 or 16 bits",
        ),
        (encoded(photo(), "PNG"), ".jpg", "named .jpg but holds PNG; give it its own ending or take it out"),
        (b"no image", None, "holds no image that can be recognised"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_refusal_says_why(content: bytes, suffix: str | None, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        read_picture(content, suffix)
    assert str(caught.value) == reason


FOREIGN = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
    "FITS": b"SIMPLE  =                    T".ljust(80) + b"BITPIX  =                    8".ljust(2800),
    "PDF": b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\n",
    "PPM": b"P6 2 2 255\n" + bytes(12),
    "ICO": b"\0\0\1\0\1\0\1\1\0\0\1\0\x18\0\x30\0\0\0\x16\0\0\0" + bytes(60),
}


@pytest.mark.parametrize("format", FOREIGN)
def test_no_other_plug_in_sees_a_file(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    asked = []
    for name in set(Image.OPEN) - {"JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "AVIF"}:

        def ask(*_: object, name: str = name) -> None:
            asked.append(name)
            raise SyntaxError

        monkeypatch.setitem(Image.OPEN, name, (ask, None))
    with pytest.raises(
        DataError, match=r"named \.jpg but (is a .* file, not an image|holds no image that can be recognised)"
    ):
        read_picture(FOREIGN[format], ".jpg")
    assert asked == []
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(io.BytesIO(FOREIGN[format]))
    assert format in asked or format == "PDF"  # which Pillow only writes


BOMBS = {
    "a png just under the limit": (
        "png(b'IHDR' + struct.pack('>IIBBBBB', 9999, 9999, 8, 2, 0, 0, 0),"
        " b'IDAT' + zlib.compress(bytes(9999 * (3 * 9999 + 1)), 1), b'IEND')",
        "9999 x 9999",
    ),
    "a png far over it": ("png(b'IHDR' + struct.pack('>IIBBBBB', 30000, 30000, 8, 2, 0, 0, 0), b'IEND')", "over"),
    "a webp over its own": ("encoded(Image.new('RGB', (8000, 8000)), 'WEBP', method=0)", "over 50,000,000"),
    "a gif of many large pictures": ("gif_of_many(300, 4000)", "GIF whose pictures have over 100,000,000"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_memory_stays_below_a_gigabyte(name: str, tmp_path: Path) -> None:
    written, words = BOMBS[name]
    path = tmp_path / "bomb"
    scope = {"png": png, "encoded": encoded, "gif_of_many": gif_of_many, "struct": struct, "zlib": zlib, "Image": Image}
    path.write_bytes(eval(written, scope))
    script = (
        "import json, re, sys\n"
        "from pipeline.errors import DataError\n"
        "from pipeline.images.headers import quiet_pillow\n"
        "from pipeline.images.pixels import read_picture\n"
        "with quiet_pillow(), open(sys.argv[1], 'rb') as file:\n"
        "    try:\n"
        "        found = read_picture(file.read(), None)\n"
        "        said = found.transcode or f'{found.header.width} x {found.header.height}'\n"
        "    except DataError as error:\n"
        "        said = str(error)\n"
        # Not getrusage, which in a child counts what the parent held when it was started.
        "peak = re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())\n"
        "print(json.dumps([said, int(peak[1]) * 1024]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])}
    said, peak = json.loads(subprocess.check_output([sys.executable, "-c", script, path], env=environment))
    assert words in said
    assert peak < 1e9


def test_reading_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for write in KINDS.values():
            read_picture(write(), None)
