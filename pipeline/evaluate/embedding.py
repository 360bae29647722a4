"""Pictures inside a page: PNG files as they are, or smaller ones of the same look."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

#: Bytes of a picture that are embedded as they are.
LIGHT = 150_000
#: Bytes of all pictures of a page, before base64 makes a third more of them.
MOST_BYTES = 3_500_000

#: A JPEG has to be lighter than this share of a PNG: it blurs lines and letters a little.
WORTH_LOSS = 0.7

#: JPEG's quality and the longest side, tried in this order until all pictures together are light enough.
STEPS = ((88, 4000), (80, 2000), (70, 1400), (60, 1000))

#: CSS pixels of a phone a pixel of the picture: letters of 9 points, at 130 dots an inch, then have 7 of them.
LEGIBLE = 0.42


@dataclass(frozen=True)
class Embedded:
    """A picture as the page holds it.

    Attributes:
        source: A `data:` address.
        width: In CSS pixels, when there is room.
        height: Likewise.
        legible: The width below which its letters cannot be read.
    """

    source: str
    width: int
    height: int
    legible: int


def embed(pictures: Mapping[str, bytes]) -> dict[str, Embedded]:
    """Returns pictures for a page, all together of at most `MOST_BYTES` where the last of `STEPS` gets there.

    A light PNG stays as it is. A heavy one gets a palette if it has no more than 256 colours; one of photographs
    becomes a JPEG, with colours as fine as its brightness, so that letters stay sharp.

    Args:
        pictures: PNG bytes by name.
    """
    packed = pictures
    for quality, longest in STEPS:
        packed = {name: _pack(png, quality, longest) for name, png in pictures.items()}
        if sum(map(len, packed.values())) <= MOST_BYTES:
            break
    return {name: _embedded(data, pictures[name]) for name, data in packed.items()}


def _pack(png: bytes, quality: int, longest: int) -> bytes:
    if len(png) <= LIGHT:
        return png
    with Image.open(BytesIO(png)) as opened:
        image = opened.convert("RGB")
    image.thumbnail((longest, 4 * longest), Image.Resampling.LANCZOS)
    if image.getcolors(256):
        exact = _saved(image.quantize(256, dither=Image.Dither.NONE), "PNG", optimize=True)
        png = min(png, exact, key=len)
    jpeg = _saved(image, "JPEG", quality=quality, subsampling=0, optimize=True)
    return jpeg if len(jpeg) < WORTH_LOSS * len(png) else png


def _saved(image: Image.Image, form: str, **options: int | bool) -> bytes:
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _embedded(data: bytes, png: bytes) -> Embedded:
    with Image.open(BytesIO(png)) as image:
        width, height = image.size  # of the figure, however small it is packed
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
    return Embedded(source, round(width * 0.74), round(height * 0.74), round(width * LEGIBLE))
