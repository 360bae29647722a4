"""Whether two images show the same: keypoints matched between them, and the transformation they agree on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from pipeline.figures import AMBER, GRAY, GREEN, INK, one_line
from pipeline.images.arrays import Pixels, luma, reduce_image
from pipeline.pictures.layout import show_pixels

Points = npt.NDArray[np.float32]

LONGEST = 1024  # keypoints are looked for at this size: larger is slower and finds noise
SMALLEST = 32  # below, an image is enlarged, since SIFT's coarsest scales do not fit into it
ENLARGEMENT = 4
RATIO = 0.75  # of the nearest to the second nearest descriptor: Lowe, IJCV 2004, section 7.1, has 0.8
MOST_LINES = 100  # of each colour: more hide the images
TOLERANCE = 4.0  # pixels that an inlier may lie beside where the transformation puts it

# Inches.
PICTURE = 6.5
GAP = 0.3
HEAD = 0.95


@dataclass(frozen=True)
class MatchSummary:
    """What two images have in common.

    Attributes:
        keypoints: found in the first and in the second image.
        matches: pairs that are each other's nearest, clearly nearer than the second nearest.
        inliers: those of them that agree on one transformation (a homography).
        mirrored: the agreement is with the mirrored second image.
        identical: every pixel is the same.
        verdict: all of it in words.
    """

    keypoints: tuple[int, int]
    matches: int
    inliers: int
    mirrored: bool
    identical: bool
    verdict: str

    @property
    def same_scene(self) -> bool:
        """Whether the agreement is more than chance gives: inliers > 8 + 0.3 matches.

        Brown and Lowe, "Automatic panoramic image stitching using invariant features", IJCV 2007, section 3.2.
        """
        return self.identical or self.inliers > 8 + 0.3 * self.matches


@dataclass(frozen=True)
class _Agreement:
    """Matched places, `(M, 2)` float32 (x, y) in each image's own pixels, and which agree, `(M,)` bool."""

    keypoints: tuple[int, int]
    first: Points
    second: Points
    inlier: npt.NDArray[np.bool_]
    mirrored: bool


def match_figure(first: Pixels, second: Pixels, titles: tuple[str, str]) -> tuple[Figure, MatchSummary]:
    """Returns two images side by side with lines between what matches, and the same in numbers and words.

    Keypoints are SIFT's; of the matches those that one homography maps onto each other (RANSAC) are drawn in green, the
    others faintly. The second image is tried mirrored too, since SIFT does not see through a mirror. Equal images give
    equal results.

    Args:
        first: `(H, W, 3)` uint8 upright RGB.
        second: likewise; its size may differ.
        titles: one an image, written above it.
    """
    agreement = _best_agreement(first, second)
    summary = _summary(agreement, np.array_equal(first, second))
    return _draw(first, second, titles, agreement, summary), summary


def _best_agreement(first: Pixels, second: Pixels) -> _Agreement:
    plain, mirrored = (_agree(first, second, mirrored=mirrored) for mirrored in (False, True))
    return mirrored if mirrored.inlier.sum() > plain.inlier.sum() else plain


def _agree(first: Pixels, second: Pixels, *, mirrored: bool) -> _Agreement:
    """Returns the matches of two images, the second one mirrored or not, in coordinates of the images as given."""
    places, descriptors = _keypoints(first)
    others, other_descriptors = _keypoints(np.ascontiguousarray(second[:, ::-1]) if mirrored else second)
    pairs = _mutual_matches(descriptors, other_descriptors)
    left, right = places[pairs[:, 0]], others[pairs[:, 1]]
    inlier = _inliers(left, right)
    if mirrored:
        right = np.column_stack([second.shape[1] - 1 - right[:, 0], right[:, 1]])
    return _Agreement((len(places), len(others)), left, right, inlier, mirrored)


def _keypoints(pixels: Pixels) -> tuple[Points, npt.NDArray[np.float32]]:
    """Returns the places `(K, 2)` in the image's own pixels and the SIFT descriptors `(K, 128)`, float32 both."""
    looked_at = reduce_image(luma(pixels), LONGEST)
    if max(pixels.shape[:2]) < SMALLEST:
        looked_at = cv2.resize(looked_at, None, fx=ENLARGEMENT, fy=ENLARGEMENT, interpolation=cv2.INTER_CUBIC)
    found, descriptors = cv2.SIFT.create(nfeatures=2000).detectAndCompute(looked_at, None)
    if descriptors is None:
        return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32)
    scale = np.array(pixels.shape[1::-1]) / looked_at.shape[::-1]
    places = (np.array([point.pt for point in found]) + 0.5) * scale - 0.5
    return places.astype(np.float32), descriptors


def _mutual_matches(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """Returns the pairs `(M, 2)` (row of `first`, row of `second`) that pass the ratio test in both directions."""
    if min(len(first), len(second)) < 2:  # no second nearest to compare with
        return np.zeros((0, 2), np.intp)
    there, back = _clear_nearest(first, second), _clear_nearest(second, first)
    pairs = [(row, column) for row, column in sorted(there.items()) if back.get(column) == row]
    return np.array(pairs, np.intp).reshape(-1, 2)


def _clear_nearest(queries: npt.NDArray[np.float32], candidates: npt.NDArray[np.float32]) -> dict[int, int]:
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(queries, candidates, k=2)
    return {best.queryIdx: best.trainIdx for best, second in pairs if best.distance < RATIO * second.distance}


def _inliers(first: Points, second: Points) -> npt.NDArray[np.bool_]:
    """Returns which matches one homography maps to within `TOLERANCE`, `(M,)` bool; none if it folds the image."""
    nothing = np.zeros(len(first), np.bool_)
    if len(first) < 4:
        return nothing
    cv2.setRNGSeed(0)  # RANSAC draws its samples from OpenCV's own generator
    matrix, mask = cv2.findHomography(first, second, cv2.RANSAC, TOLERANCE, maxIters=5000, confidence=0.999)
    if matrix is None or not _keeps_orientation(matrix, first[mask.ravel() == 1]):
        return nothing
    return np.asarray(mask.ravel() == 1)


def _keeps_orientation(matrix: Any, points: Points) -> bool:
    """Returns whether a homography, `(3, 3)`, turns no neighbourhood of the points over nor shrinks it to nothing.

    A scene seen twice is never inside out; four chance matches often are.
    """
    depth = points @ matrix[2, :2] + matrix[2, 2]
    area = np.linalg.det(matrix) / depth**3  # the determinant of the map's derivative at each point
    return bool((area > 1e-4).all() and (area < 1e4).all())


def _summary(agreement: _Agreement, identical: bool) -> MatchSummary:
    matches, inliers = len(agreement.first), int(agreement.inlier.sum())
    summary = MatchSummary(agreement.keypoints, matches, inliers, agreement.mirrored and inliers > 0, identical, "")
    return MatchSummary(**{**vars(summary), "verdict": _verdict(summary)})


def _verdict(summary: MatchSummary) -> str:
    keypoints, matches, inliers = summary.keypoints, summary.matches, summary.inliers
    if summary.identical:
        return "every pixel is the same: one image twice"
    if min(keypoints) < 8:
        return f"{keypoints[0]:,} and {keypoints[1]:,} keypoints: too few details to tell"
    counted = f"{matches:,} keypoint{' matches' if matches == 1 else 's match'}"
    if summary.same_scene:
        how = "once one image is mirrored" if summary.mirrored else "on one transformation"
        return f"{counted}, {inliers:,} agree {how}: very likely the same scene"
    if inliers > 8:
        return f"{counted}, {inliers} agree on one transformation: perhaps something in common, look at it"
    return f"{counted}, no agreement: different images" if matches else "nothing matches: different images"


def _draw(
    first: Pixels, second: Pixels, titles: tuple[str, str], agreement: _Agreement, summary: MatchSummary
) -> Figure:
    height = PICTURE * max(min(image.shape[0] / image.shape[1], 1.4) for image in (first, second))
    size = (2 * PICTURE + GAP, height + HEAD)
    figure = Figure(figsize=size, facecolor="white")
    figure.text(0, 1, summary.verdict, va="top", fontsize=15, weight="bold", color=INK)
    figure.text(0, 1 - 0.34 / size[1], _legend(summary), va="top", fontsize=10, color=GRAY)
    panels = []
    for place, (image, title) in enumerate(zip((first, second), titles, strict=True)):
        box = (place * (PICTURE + GAP) / size[0], 0, PICTURE / size[0], height / size[1])
        axes = figure.add_axes(box)
        show_pixels(axes, reduce_image(image, LONGEST), extent_of=image)
        axes.set_anchor("N")
        rows, columns = image.shape[:2]
        axes.set_title(
            f"{one_line(title, 60)}  ({columns} x {rows})", loc="left", fontsize=10.5, color=INK, parse_math=False
        )
        panels.append(axes)
    _draw_lines(figure, panels, agreement)
    return figure


def _legend(summary: MatchSummary) -> str:
    others = summary.matches - summary.inliers
    parts = [f"{summary.keypoints[0]:,} and {summary.keypoints[1]:,} SIFT keypoints"]
    parts += [f"green: {summary.inliers:,} matches that agree"] if summary.inliers else []
    parts += [f"amber: {others:,} other{'s' * (others > 1)}"] if others else []
    parts += [f"a line for {MOST_LINES} of them"] if max(summary.inliers, others) > MOST_LINES else []
    return "; ".join(parts)


def _draw_lines(figure: Figure, panels: list[Axes], agreement: _Agreement) -> None:
    """Draws every matched place as a dot and lines between some, the agreeing ones above."""
    for axes in panels:
        axes.apply_aspect()  # the panels' final places are known only then
    to_figure = figure.transFigure.inverted()
    ends = [
        to_figure.transform(axes.transData.transform(points.reshape(-1, 2)))
        for axes, points in zip(panels, (agreement.first, agreement.second), strict=True)
    ]
    lines = np.stack(ends, axis=1)  # (M, 2 ends, x and y)
    for agrees, colour, alpha in ((False, AMBER, 0.45), (True, GREEN, 0.9)):
        chosen = agreement.inlier == agrees
        for axes, points in zip(panels, (agreement.first, agreement.second), strict=True):
            axes.scatter(points[chosen, 0], points[chosen, 1], s=9, color=colour, alpha=alpha, lw=0.4, ec="white")
        drawn = lines[chosen][_spread(int(chosen.sum()), MOST_LINES)]
        figure.add_artist(LineCollection(list(drawn), colors=colour, lw=0.8, alpha=alpha, transform=figure.transFigure))


def _spread(count: int, most: int) -> npt.NDArray[np.intp]:
    """Returns `most` of the numbers below `count`, evenly spread; all of them if there are no more."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.intp))
