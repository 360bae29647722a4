"""The score by slices of the test set: by image size, shape, brightness and group, and which of them stand out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.evaluate.intervals import Clusters, wilson_interval
from pipeline.ingest.manifest import Manifest
from pipeline.tasks.base import Chapter

#: Slices with fewer images than this are left out: their intervals say nothing.
LEAST_IMAGES = 10

#: Groups that the source names are listed up to this number, the largest.
MOST_GROUPS = 20

#: Pixels of a side from which on an eighth of the resolution is enough for a mean.
LARGE = 512

#: Chance of calling any slice of a run different that is not.
LEVEL = 0.05


@dataclass(frozen=True)
class Slice:
    """A part of the test images.

    Attributes:
        kind: What it is cut by: size, shape, brightness, group.
        name: Which part.
        images: How many.
        score: Their mean score.
        low, high: Its 95 % interval.
        differs: Whether it is unlike the rest, with a chance of `LEVEL` that any of a run is called so by luck.
    """

    kind: str
    name: str
    images: int
    score: float
    low: float
    high: float
    differs: bool


@dataclass(frozen=True)
class Kind:
    """A way to cut test images into slices.

    Attributes:
        names: Of the slices, in the order in which they are told.
        places: `(N,)` which of them each image is in; `len(names)` for none.
    """

    names: Sequence[str]
    places: npt.NDArray[np.int64]


def measure_slices(scores: np.ndarray, clusters: Sequence[str], kinds: Mapping[str, Kind]) -> list[Slice]:
    """Returns the slices of test images, kind by kind, those of too few images left out.

    Args:
        scores: `(N,)` in [0, 1].
        clusters: Of each image; copies of one count as one.
        kinds: By what they are cut.
    """
    ids = np.unique(np.asarray(clusters), return_inverse=True)[1]
    rows, chances = [], []
    for title, kind in kinds.items():
        count = len(kind.names) + 1
        parts = Clusters(ids, kind.places, count)
        effective = parts.effective(parts.agreement(scores))
        sums = np.bincount(kind.places, scores, count)
        for number, name in enumerate(kind.names):
            images = int(parts.images[number])
            if LEAST_IMAGES <= images < len(scores):
                score = sums[number] / images
                low, high = (float(end) for end in wilson_interval(score, effective[number]))
                rows.append(Slice(title, name, images, float(score), low, high, False))
                rest = (sums.sum() - sums[number]) / (len(scores) - images)
                chances.append(_chance(score, effective[number], rest, effective.sum() - effective[number]))
    unlike = _holm(np.array(chances))
    return [replace(row, differs=bool(differs)) for row, differs in zip(rows, unlike, strict=True)]


def image_kinds(test: Manifest) -> dict[str, Kind]:
    """Returns by what test images can be cut: what ingest and a look at their pixels tell of them."""
    widths, heights = (np.array(test.column(name), float) for name in ("width", "height"))
    ratio = widths / heights
    return {
        "size": _thirds(np.sqrt(widths * heights), "px a side"),
        "shape": Kind(("portrait", "square", "landscape"), np.digitize(ratio, [0.9, 1.1])),
        "brightness": _thirds(mean_brightness(test.column("path"), np.minimum(widths, heights)), "of 255"),
        "group": _largest(test.column("group")),
    }


def mean_brightness(paths: Sequence[str], sides: np.ndarray) -> npt.NDArray[np.float64]:
    """Returns the mean gray level of each file's picture, `(N,)` in [0, 255]; NaN where OpenCV cannot read one.

    Args:
        paths: The files.
        sides: `(N,)` the shorter side of each in pixels; large ones are decoded at a fraction of their resolution.
    """

    def mean(path: str, side: float) -> float:
        reduced = cv2.IMREAD_REDUCED_GRAYSCALE_8 if side >= LARGE else cv2.IMREAD_GRAYSCALE
        try:
            encoded = np.frombuffer(Path(path).read_bytes(), np.uint8)
            pixels = cv2.imdecode(encoded, reduced)
        except (OSError, cv2.error):
            return float("nan")
        return float("nan") if pixels is None else float(pixels.mean())

    with ThreadPoolExecutor() as pool:
        return np.array(list(pool.map(mean, paths, sides.tolist())))


def slices_chapter(slices: Sequence[Slice], overall: float) -> Chapter:
    """Returns the chapter with the table of slices."""
    table: dict[str, list[Any]] = {
        "slice": [f"{one.kind}: {one.name}" for one in slices],
        **{name: [getattr(one, name) for one in slices] for name in ("images", "score", "low", "high", "differs")},
    }
    return Chapter(
        name="slices",
        title="Slices",
        finding=_finding(slices, overall),
        tables={"slices": table} if slices else {},
    )


def _finding(slices: Sequence[Slice], overall: float) -> str:
    if not slices:
        return "The test images are too few or too much alike to be looked at in parts."
    unlike = sorted((one for one in slices if one.differs), key=lambda one: one.score)
    if not unlike:
        worst = min(slices, key=lambda one: one.score)
        return (
            f"No slice is unlike the rest; the lowest is {worst.kind} {worst.name}, {worst.score:.3f} "
            f"({worst.low:.3f} to {worst.high:.3f}), with {overall:.3f} over all."
        )
    words = [f"{one.kind} {one.name} {one.score:.3f} ({one.low:.3f} to {one.high:.3f})" for one in unlike[:3]]
    return f"Unlike the rest, with {overall:.3f} over all: {'; '.join(words)}."


def _thirds(values: np.ndarray, unit: str) -> Kind:
    """Returns which third of the values each is in; none for NaN, and for all where they are equal."""
    known = np.isfinite(values)
    if not known.any() or np.ptp(values[known]) == 0:
        return Kind((), np.zeros(len(values), np.int64))
    ends = np.quantile(values[known], [1 / 3, 2 / 3])
    first, second = ends.tolist()
    names = (f"up to {first:.0f} {unit}", f"{first:.0f} to {second:.0f} {unit}", f"above {second:.0f} {unit}")
    return Kind(names, np.where(known, np.digitize(values, ends, right=True), 3))


def _largest(groups: Sequence[str | None]) -> Kind:
    """Returns the groups with the most images, in the order of their names."""
    counts = Counter(group for group in groups if group is not None)
    names = sorted(name for name, _ in counts.most_common(MOST_GROUPS))
    place = {name: number for number, name in enumerate(names)}
    return Kind(names, np.array([len(names) if group is None else place.get(group, len(names)) for group in groups]))


def _chance(score: float, images: float, other: float, others: float) -> float:
    """Returns how likely two parts that are alike would differ so much: Fisher's exact test on effective images."""
    from scipy.stats import fisher_exact

    both = [(score, max(1, round(images))), (other, max(1, round(others)))]
    table = [[round(share * count), count - round(share * count)] for share, count in both]
    return float(fisher_exact(table).pvalue)


def _holm(chances: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Returns which of several tests find a difference at `LEVEL` over all of them (Holm 1979)."""
    order = np.argsort(chances)
    passed = chances[order] <= LEVEL / np.arange(len(chances), 0, -1)
    found = np.zeros(len(chances), bool)
    found[order] = np.logical_and.accumulate(passed)
    return found
