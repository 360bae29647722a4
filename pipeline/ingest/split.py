"""Deals images out to train, validation and test: whole clusters, class by class, by a keyed hash, old ones staying."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from pipeline.config import SplitConfig
from pipeline.errors import DataError
from pipeline.files import text_digest
from pipeline.ingest.manifest import SPLITS


def settle(
    clusters: Sequence[str], images: Sequence[str], before: Mapping[str, str]
) -> tuple[list[str | None], list[int]]:
    """Returns the sides that are settled already, and the rows of images that must be left out.

    An image that was there before keeps its side, and takes the new ones of its cluster with it. A new image that
    joins clusters of different sides can be on none of them without giving something of one side away to another.

    Args:
        clusters: Of each image.
        images: What each image is known by from one ingest to the next.
        before: The side of each image that was there before.
    """
    sides_of: defaultdict[str, set[str]] = defaultdict(set)
    for cluster, image in zip(clusters, images, strict=True):
        if image in before:
            sides_of[cluster].add(before[image])
    sides: list[str | None] = []
    bridges = []
    for row, (cluster, image) in enumerate(zip(clusters, images, strict=True)):
        known = sides_of.get(cluster, set())
        sides.append(before.get(image) or (next(iter(known)) if len(known) == 1 else None))
        if len(known) > 1 and image not in before:
            bridges.append(row)
    return sides, bridges


def assign_splits(
    clusters: Sequence[str], labels: Sequence[str], config: SplitConfig, settled: Sequence[str | None] | None = None
) -> list[str]:
    """Returns a split for each image, such that every class is on every side and no cluster is newly on two.

    The clusters without a side are ordered by a hash of (seed, cluster); the first go to test and validation until
    these have their shares of a class' images, the others to train. The result depends on the contents and the seed,
    not on names, order or machine, and what one class holds does not move the clusters of another.

    Args:
        clusters: Of each image: what must stay together.
        labels: Of each image.
        config: Shares and seed.
        settled: The side that an image has already, the same for all of a cluster that has no more than one.

    Raises:
        DataError: There is one class only, or a class has too few different images to be on three sides.
    """
    settled = settled or [None] * len(clusters)
    contents: dict[str, dict[str, int]] = {}
    side_of: dict[str, str] = {}
    for cluster, label, side in zip(clusters, labels, settled, strict=True):
        held = contents.setdefault(cluster, {})
        held[label] = held.get(label, 0) + 1
        if side:
            side_of.setdefault(cluster, side)
    different = Counter(label for held in contents.values() for label in held)
    _check_classes(sorted(different), different, len(SPLITS))
    new = sorted(contents.keys() - side_of.keys(), key=functools.partial(text_digest, str(config.seed)))
    _deal(contents, side_of, new, Counter(labels), config)
    _fill(contents, side_of, new)
    return [side or side_of[cluster] for cluster, side in zip(clusters, settled, strict=True)]


#: The number of images of each class, by cluster.
_Contents = Mapping[str, Mapping[str, int]]


def _deal(
    contents: _Contents, side_of: dict[str, str], new: Sequence[str], totals: Mapping[str, int], config: SplitConfig
) -> None:
    """Gives each new cluster a side: test or validation while there is room for it, else train."""
    room: dict[str, dict[str, int]] = {"test": {}, "validation": {}}
    for label, total in totals.items():
        room["test"][label] = _share(total, config.test)
        room["validation"][label] = min(_share(total, config.validation), total - room["test"][label] - 1)

    def enter(cluster: str, side: str) -> None:
        for label, count in contents[cluster].items():
            room[side][label] -= count

    for cluster, side in side_of.items():
        if side in room:
            enter(cluster, side)
    for cluster in new:
        for side in room:
            if _fits(contents[cluster], room[side]):
                side_of[cluster] = side
                enter(cluster, side)
                break
        else:
            side_of[cluster] = "train"


def _fits(held: Mapping[str, int], room: Mapping[str, int]) -> bool:
    """Returns whether a cluster leaves a side no more than half of itself over its share, in the mean of its classes.

    A cluster of many images would otherwise make a side of its own.
    """
    if len(held) == 1:  # nearly always
        ((label, count),) = held.items()
        return room[label] >= count / 2
    return sum([count * room[label] for label, count in held.items()]) >= sum(held.values()) ** 2 / 2


def _fill(contents: _Contents, side_of: dict[str, str], new: Sequence[str]) -> None:
    """Gives a side on which a class is missing the smallest new cluster that is not the only one where it is."""
    present = {(side_of[cluster], label) for cluster, held in contents.items() for label in held}
    missing = [(label, side) for label in sorted({label for _, label in present}) for side in SPLITS[::-1]]
    missing = [(label, side) for label, side in missing if (side, label) not in present]
    if not missing:
        return
    holders = Counter((side_of[cluster], label) for cluster, held in contents.items() for label in held)
    for label, side in missing:
        own = (cluster for cluster in new if label in contents[cluster])
        spare = [c for c in own if all(holders[side_of[c], other] > 1 for other in contents[c])]
        if not spare:
            continue
        donor = max({side_of[cluster] for cluster in spare}, key=lambda name: (holders[name, label], name))
        moved = min((c for c in spare if side_of[c] == donor), key=lambda c: sum(contents[c].values()))
        holders.subtract((donor, other) for other in contents[moved])
        holders.update((side, other) for other in contents[moved])
        side_of[moved] = side


def complete_splits(
    given: Sequence[str | None],
    clusters: Sequence[str],
    labels: Sequence[str],
    config: SplitConfig,
    settled: Sequence[str | None] | None = None,
) -> list[str]:
    """Returns the source's own splits, with a side that it lacks carved out of its train.

    Raises:
        DataError: There is one class only, a class is missing from train, or train is too small to carve from.
    """
    sides = [split or "train" for split in given]
    missing = [split for split in SPLITS if split not in sides]
    trained = {label for label, side in zip(labels, sides, strict=True) if side == "train"}
    for label in sorted(set(labels) - trained):
        raise DataError(f"class {label!r} has no image in train; add some there or take the class out")
    if not missing:
        _check_classes(sorted(trained), {}, at_least=1)
        return sides
    rows = [row for row, side in enumerate(sides) if side == "train"]
    kept = [settled[row] if settled else None for row in rows]
    carved = assign_splits([clusters[row] for row in rows], [labels[row] for row in rows], config, kept)
    for row, side in zip(rows, carved, strict=True):
        sides[row] = side if side in missing else "train"
    return sides


def _share(count: int, fraction: float) -> int:
    return max(1, min(round(count * fraction), count - 2))


def _check_classes(classes: Sequence[str], sizes: Mapping[str, int], at_least: int) -> None:
    if len(classes) < 2:
        raise DataError(f"one class only ({classes[0]!r}); classification needs two or more class folders with images")
    small = {label: size for label, size in sorted(sizes.items()) if size < at_least}
    if small:
        named = ", ".join(f"{label!r} has {size}" for label, size in list(small.items())[:5])
        raise DataError(
            f"too few different images to split: {named}; each class needs at least {at_least}, one each for train, "
            "validation and test, and copies and groups count once: add images or take the class out"
        )
