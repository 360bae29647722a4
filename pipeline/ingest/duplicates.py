"""Finds images that show the same picture: equal pixel by pixel, copied with losses, slightly cropped or mirrored.

A perceptual hash only proposes; hashes alone chain, from likeness to likeness. What it proposes is
aligned, first on thumbnails, then on the pixels themselves, and counts only if what remains is small.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.ingest.signature import FACE, HASHES, faces

Kind = Literal["exact", "near", "mirrored"]
Pixels = npt.NDArray[np.uint8]

#: Most different bits, of 64, at which two hashes propose a pair; benchmarks/duplicates.py tells what it finds.
MOST_BITS = 12
#: What aligned thumbnails must correlate by to be worth a look at the pixels.
_THUMBNAIL_CORRELATION = 0.8
#: Longer side at which pixels are compared: enough to tell two photographs of one thing apart.
_SIDE = 128
#: What makes a copy, on aligned pixels: correlation of luma, of its detail, and the mean difference of values.
_CORRELATION, _DETAIL, _DIFFERENCE = 0.88, 0.6, 14.0
#: A copy may be cropped by this share of its sides at the most, and keeps this much of itself in the other.
_MOST_SHIFT, _LEAST_OVERLAP = 0.15, 0.7

#: All pairs of a picture's copies are named up to this many of them; a thousand copies have half a million pairs.
NAMED_COPIES = 8

_IN_PLACE = np.eye(2, 3, dtype=np.float32)


class Match(NamedTuple):
    """Two images that show the same picture.

    Attributes:
        first: Row of the one.
        second: Row of the other, the larger number.
        kind: "exact", "near", or "mirrored": near after a flip from left to right.
        difference: Mean absolute difference of the aligned RGB values, in [0, 255].
    """

    first: int
    second: int
    kind: Kind
    difference: float


class Verdict(NamedTuple):
    """Whether two images are copies of one picture, and how far their aligned values lie apart in the mean."""

    same: bool
    difference: float


class Proposal(NamedTuple):
    """Two faces that may show the same picture: rows of the images, which face of each, and whether one is flipped."""

    first: int
    second: int
    first_face: int
    second_face: int
    mirrored: bool


def exact_matches(pixel_digests: Sequence[str]) -> Iterator[Match]:
    """Yields the pairs of images with equal pixels; of a picture that is there many times, those with the first few."""
    rows_of: dict[str, list[int]] = {}
    for row, digest in enumerate(pixel_digests):
        same = rows_of.get(digest)
        if same is None:
            rows_of[digest] = [row]
            continue
        yield from (Match(other, row, "exact", 0.0) for other in same[:NAMED_COPIES])
        same.append(row)


class Crowds:
    """Which images show the same picture as far as is known, so that a thousand frames are not compared in pairs.

    Args:
        count: Number of images.
    """

    def __init__(self, count: int) -> None:
        self._label, self._size = np.arange(count), np.ones(count, np.int64)

    def join(self, one: int, other: int) -> None:
        """Notes that two images show the same picture."""
        kept, gone = sorted((int(self._label[one]), int(self._label[other])))
        if kept != gone:
            self._size[kept] += self._size[gone]
            self._label[self._label == gone] = kept

    def known(self, one: int, others: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Returns which of the others are known to show the same as `one`, in a crowd too large to name every pair."""
        label = self._label[one]
        return (self._label[others] == label) & bool(self._size[label] > NAMED_COPIES)


def propose(signatures: Sequence[bytes | None], crowds: Crowds) -> Iterator[list[Proposal]]:
    """Yields, for each image with a signature, the later ones whose hashes and aligned thumbnails are near its own.

    Each pair of images is proposed once, by the faces that agree most. What `crowds` learns between two steps is
    heeded in the next. Every face is compared with every other, so ten times the images take a hundred times as long.
    """
    tables = [(row, faces(signature)) for row, signature in enumerate(signatures) if signature is not None]
    table = np.concatenate([found for _, found in tables]) if tables else np.empty(0, FACE)
    rows = np.repeat(np.array([row for row, _ in tables], np.int64), [len(found) for _, found in tables])
    face = np.concatenate([np.arange(len(found)) for _, found in tables]) if tables else rows
    hashes = {name: np.ascontiguousarray(table[name]) for name in HASHES}
    large, start = table["large"], 0
    for row, own in tables:
        end = start + len(own)
        best: dict[int, tuple[float, Proposal]] = {}
        for one in range(start, end):
            free = ~crowds.known(row, rows[end:]) & (large[one] | large[end:]) & ~((face[one] > 0) & (face[end:] > 0))
            for mirrored in (False, True):
                near = np.flatnonzero(_near_hashes(hashes, one, end, mirrored) & free) + end
                for other in near.tolist():
                    agreement = _agreement(table["thumbnail"][one], table["thumbnail"][other], mirrored)
                    second = int(rows[other])
                    if agreement >= max(_THUMBNAIL_CORRELATION, best.get(second, (0.0,))[0]):
                        proposal = Proposal(row, second, int(face[one]), int(face[other]), mirrored)
                        best[second] = agreement, proposal
        start = end
        yield [proposal for _, proposal in best.values()]


def _near_hashes(hashes: Mapping[str, np.ndarray], one: int, start: int, mirrored: bool) -> npt.NDArray[np.bool_]:
    """Returns which faces from `start` on have a hash within `MOST_BITS` of one of face `one`."""
    whole, trimmed = ("mirrored", "mirrored_trimmed") if mirrored else ("whole", "trimmed")
    near = np.bitwise_count(hashes["whole"][one] ^ hashes[whole][start:]) <= MOST_BITS
    near |= np.bitwise_count(hashes["whole"][one] ^ hashes[trimmed][start:]) <= MOST_BITS
    near |= np.bitwise_count(hashes["trimmed"][one] ^ hashes[whole][start:]) <= MOST_BITS
    return near


def _agreement(one: Pixels, other: Pixels, mirrored: bool) -> float:
    """Returns the correlation of two thumbnails, one laid over the other."""
    other = np.ascontiguousarray(other[:, ::-1]) if mirrored else other
    warp = _align(one, other, iterations=15)
    moved, valid = _warped(other, warp)
    return _correlation(one[valid], moved[valid])


def compare_pixels(first: Pixels, second: Pixels) -> Verdict:
    """Returns whether two images show one picture, to the loss of coding, of a change of size and of a slight crop.

    Both are brought to one size, one is laid over the other by an affine transformation (ECC: G. Evangelidis and
    E. Psarakis, Parametric Image Alignment Using Enhanced Correlation Coefficient Maximization, 2008), and what they
    share is compared: luma, its detail, and colour.

    Args:
        first: `(H, W, 3)` uint8.
        second: Likewise, of any size.
    """
    one, other = _same_size(first, second)
    luma, other_luma = (cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) for pixels in (one, other))
    # Where there is little to hold on to (sky, a gradient), the alignment drifts and leaving all in place is better.
    warps = (_align(luma, other_luma, iterations=60), _IN_PLACE)
    return max((_judge(one, luma, other, warp) for warp in warps), key=lambda found: (found.same, -found.difference))


def _judge(one: Pixels, luma: Pixels, other: Pixels, warp: npt.NDArray[np.float32]) -> Verdict:
    moved, valid = _warped(other, warp)
    if valid.mean() < _LEAST_OVERLAP or not _is_slight(warp, luma.shape):
        return Verdict(False, 255.0)
    difference = float(np.abs(one[valid].astype(np.int16) - moved[valid]).mean())
    moved_luma = cv2.cvtColor(moved, cv2.COLOR_RGB2GRAY)
    same = (
        difference <= _DIFFERENCE
        and _correlation(luma[valid], moved_luma[valid]) >= _CORRELATION
        and _correlation(_detail(luma)[valid], _detail(moved_luma)[valid]) >= _DETAIL
    )
    return Verdict(same, difference)


def _same_size(first: Pixels, second: Pixels) -> tuple[Pixels, Pixels]:
    """Returns both at the first's proportions, no larger than the smaller of them."""
    longer = min(max(first.shape[:2]), max(second.shape[:2]), _SIDE)
    scale = longer / max(first.shape[:2])
    size = tuple(max(8, round(scale * side)) for side in first.shape[1::-1])
    return (
        cv2.resize(first, size, interpolation=cv2.INTER_AREA),
        cv2.resize(second, size, interpolation=cv2.INTER_AREA),
    )


def _align(one: Pixels, other: Pixels, iterations: int) -> npt.NDArray[np.float32]:
    """Returns the `(2, 3)` affine map from places in `one` to places in `other`; the identity where none is found."""
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, iterations, 1e-4)
    try:
        _, warp = cv2.findTransformECC(one, other, _IN_PLACE.copy(), cv2.MOTION_AFFINE, stop, None, 3)
    except cv2.error:  # no common structure, or it drifted apart: then the identity is as good a guess as any
        return _IN_PLACE
    return warp if np.isfinite(warp).all() else _IN_PLACE


def _warped(pixels: Pixels, warp: npt.NDArray[np.float32]) -> tuple[Pixels, npt.NDArray[np.bool_]]:
    """Returns pixels laid over the other image, and which of the places there they cover."""
    size = pixels.shape[1::-1]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(pixels, warp, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    covered = cv2.warpAffine(
        np.ones(pixels.shape[:2], np.uint8), warp, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    )
    return moved, covered.astype(bool)


def _is_slight(warp: npt.NDArray[np.float32], shape: tuple[int, ...]) -> bool:
    """Returns whether a map only shifts, crops and scales a little, as seen by where it takes the corners."""
    height, width = shape
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], np.float32)
    moved = corners @ warp.T - corners[:, :2]
    return bool((np.abs(moved) <= _MOST_SHIFT * np.array([width, height])).all())


def _detail(luma: Pixels) -> npt.NDArray[np.float32]:
    """Returns what lies between the finest grain, which coding destroys, and the large shapes, which many share."""
    fine = luma.astype(np.float32)
    return cv2.GaussianBlur(fine, (0, 0), 1.0) - cv2.GaussianBlur(fine, (0, 0), 4.0)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.astype(np.float64) - one.mean(), other.astype(np.float64) - other.mean()
    spread = np.sqrt((one @ one) * (other @ other))
    return float(one @ other / spread) if spread > 1e-9 else 0.0


def cluster(count: int, links: Sequence[tuple[int, int]]) -> list[int]:
    """Returns for each of `count` rows the smallest row that it is linked to, directly or through others.

    >>> cluster(5, [(1, 2), (2, 4)])
    [0, 1, 1, 3, 1]
    """
    above = list(range(count))

    def top(row: int) -> int:
        while above[row] != row:
            above[row] = above[above[row]]
            row = above[row]
        return row

    for one, other in links:
        first, second = sorted((top(one), top(other)))
        above[second] = first
    return [top(row) for row in range(count)]
