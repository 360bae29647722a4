from __future__ import annotations

import contextlib
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kinds import HEIGHT, KINDS, WIDTH, check_image
from PIL import Image

from pipeline.errors import DataError
from pipeline.images import headers
from pipeline.images.headers import PIXEL_LIMIT, SUFFIXES, Header, is_plain_jpeg, open_image

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 4), dtype=np.uint8))


def encoded(format: str, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = NOISE if mode in ("LA", "RGBA") else NOISE.convert("RGB")
    image.convert(mode, palette=Image.Palette.ADAPTIVE).save(buffer, format, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Returns a PNG that ends after a header which claims a size."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0")
    parts = (struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (chunk, data))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, bytes], Path]:
    def write(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        check_image(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", KINDS)
def test_what_the_graph_reads_is_accepted(name: str, write: Callable[..., Path]) -> None:
    format = name.split()[0]
    header = check_image(write(f"image.{format.upper()}", KINDS[name]()))
    assert header.format == format.upper()
    lies = name in ("png held as 6", "webp held as 8", *(f"jpeg held as {turn}" for turn in (5, 6, 7, 8)))
    assert (header.height, header.width) == ((WIDTH, HEIGHT) if lies else (HEIGHT, WIDTH))


def test_a_phones_several_pictures_in_one_jpeg_are_a_jpeg(write: Callable[..., Path]) -> None:
    content = encoded("MPO", save_all=True, append_images=[NOISE.convert("RGB").rotate(90)])
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "MPO"
    assert check_image(write("phone.jpg", content)) == Header("JPEG", "RGB", 40, 30)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.99])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "BMP", "WEBP"])
def test_a_truncated_file_is_refused(format: str, share: float, write: Callable[..., Path]) -> None:
    content = encoded(format)
    path = write(f"cut.{format.lower()}", content[: int(len(content) * share)])
    assert refusal(path).startswith(("cannot be decoded: ", "named "))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jpg", b"", "the file is empty"),
        ("noise.png", bytes(range(256)), "named .png but holds no image that can be recognised"),
        ("page.jpg", b"<!DOCTYPE html><html>404</html>", "named .jpg but is an HTML page, not an image; take it out"),
        ("other.jpg", encoded("PNG"), "named .jpg but holds PNG; give it its own ending or take it out"),
        ("other.png", encoded("JPEG"), "named .png but holds JPEG; give it its own ending or take it out"),
        ("scan.tiff", encoded("TIFF"), "TIFF of mode RGB"),
        ("print.tif", encoded("TIFF", "CMYK"), "TIFF of mode CMYK"),
        (
            "logo.gif",
            encoded("GIF", "P", transparency=3),
            "GIF of mode P with a transparent colour",
        ),
        (
            "key.png",
            encoded("PNG", "RGB", transparency=(1, 2, 3)),
            "PNG of mode RGB with a transparent colour",
        ),
    ],
)
def test_a_refusal_says_what_was_found(name: str, content: bytes, message: str, write: Callable[..., Path]) -> None:
    assert refusal(write(name, content)) == message


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(10_001, 10_000), (12_000, 12_000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_header(size: tuple[int, int], write: Callable[..., Path]) -> None:
    reason = refusal(write("bomb.png", png_header(*size)))
    assert f"over {PIXEL_LIMIT:,} pixels; scale the image down" in reason


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_an_unreadable_file_is_refused_with_the_systems_reason(
    error: OSError, write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("photo.png", encoded("PNG"))

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(headers, "open", refuse, raising=False)
    assert refusal(path) == f"cannot be read: {error.strerror}"


def test_a_file_that_is_gone_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "gone.png") == "cannot be read: No such file or directory"


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("format", sorted(set(SUFFIXES.values()) - {"HEIF"}))
def test_damage_anywhere_is_refused_or_harmless(format: str, write: Callable[..., Path]) -> None:
    """Pillow's plug-ins raise many kinds of errors; none of them may end the run."""
    content, random = encoded(format), np.random.default_rng(0)
    suffix = next(suffix for suffix, promised in SUFFIXES.items() if promised == format)
    for _ in range(150):
        damaged = bytearray(content)
        for place in random.integers(0, min(len(content), 300), 4):
            damaged[place] = random.integers(256)
        with contextlib.suppress(DataError):
            check_image(write(f"damaged{suffix}", bytes(damaged)))


@pytest.mark.parametrize("name", KINDS)
def test_a_plain_jpeg_is_what_the_graph_may_read_unseen(name: str) -> None:
    """By the header alone the same is found as by decoding, and only of JPEG."""
    content = KINDS[name]()
    with open_image(content, None) as opened:
        assert is_plain_jpeg(content) == (opened.header.format == "JPEG" and opened.transcode is None)


@pytest.mark.parametrize(
    "content",
    [
        KINDS["jpeg 4:4:4"]()[:-200],
        KINDS["jpeg of cmyk"]().replace(b"Adobe", b"Idobe"),
        KINDS["jpeg 4:4:4"]().replace(b"\xff\xc0\x00\x11\x08\x00\x25\x00\x35", b"\xff\xc0\x00\x11\x08\xff\xf0\xff\xf0"),
        b"\xff\xd8\xff and no more",
        b"",
    ],
    ids=["cut short", "cmyk of nobody", "bomb", "garbage", "empty"],
)
def test_what_must_be_looked_at_is_no_plain_jpeg(content: bytes) -> None:
    assert not is_plain_jpeg(content)
