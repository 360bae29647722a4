"""What near-duplicates are found by: a perceptual hash and a thumbnail of each way an image may have been copied."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

#: Of two images that are both shorter than this at their longer side, there is too little to tell a copy from a
#: likeness: they are compared exactly.
LARGE = 64
#: What is shorter still cannot be told to be a copy even of a large one.
SMALLEST = 32

#: Side of a thumbnail, in pixels.
THUMBNAIL = 32

#: Share cut off at each side for the second hash: a crop then lies about as near to it as the whole does to the first.
TRIM = 0.03

#: One way to look at an image: whether it is large; four hashes, of the whole and of the trimmed, as they are and
#: mirrored; and its luma.
HASHES = ("whole", "trimmed", "mirrored", "mirrored_trimmed")
FACE = np.dtype([("large", "?"), *((name, "u8") for name in HASHES), ("thumbnail", "u1", (THUMBNAIL, THUMBNAIL))])

Pixels = npt.NDArray[np.uint8]


def sign(pixels: Pixels, bare: Pixels | None = None) -> bytes | None:
    """Returns the faces of an image, as bytes of `FACE` items; None for an image too small for them.

    Args:
        pixels: `(H, W, 3)` uint8, over white.
        bare: The same without its transparency, where it has some: how a careless copy as JPEG looks.
    """
    if not is_signed(pixels):
        return None
    return b"".join(_face(look) for look in (pixels, bare) if look is not None)


def is_signed(pixels: Pixels) -> bool:
    """Returns whether an image is large enough to be told to be a copy of another."""
    return max(pixels.shape[:2]) >= SMALLEST


def faces(signature: bytes) -> np.ndarray:
    """Returns the faces in a signature, `(F,)` items of `FACE`: the first over white, the second bare."""
    return np.frombuffer(signature, FACE)


def _face(pixels: Pixels) -> bytes:
    luma = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    height, width = luma.shape
    down, right = round(TRIM * height), round(TRIM * width)
    thumbnail = _shrink(luma)
    trimmed = _shrink(luma[down : height - down, right : width - right])
    face = np.zeros((), FACE)
    face["large"] = max(luma.shape) >= LARGE
    for name, look in zip(HASHES, (thumbnail, trimmed, thumbnail[:, ::-1], trimmed[:, ::-1]), strict=True):
        face[name] = perceptual_hash(look)
    face["thumbnail"] = thumbnail.round()
    return face.tobytes()


def _shrink(luma: Pixels) -> npt.NDArray[np.float32]:
    small = min(luma.shape) < THUMBNAIL  # INTER_AREA would repeat pixels where it has to enlarge
    shrunk = cv2.resize(luma.astype(np.float32) if small else luma, (THUMBNAIL, THUMBNAIL),
                        interpolation=cv2.INTER_LINEAR if small else cv2.INTER_AREA)  # fmt: skip
    return shrunk.astype(np.float32)


def perceptual_hash(thumbnail: npt.NDArray[np.float32]) -> int:
    """Returns 64 bits: which of the 8 x 8 lowest frequencies of a thumbnail lie above their median (pHash).

    The mean brightness has no place among the frequencies; its bit says whether it is above the middle. After
    C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010.
    """
    lowest = cv2.dct(np.ascontiguousarray(thumbnail))[:8, :8].ravel()
    bits = lowest > np.median(lowest[1:])
    bits[0] = thumbnail.mean() > 127.5
    return int(np.packbits(bits).view(">u8")[0])
