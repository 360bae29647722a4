"""Deals images out to train, validation and test: whole clusters, class by class, by a keyed hash."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pipeline.config import SplitConfig
from pipeline.errors import DataError
from pipeline.files import text_digest
from pipeline.ingest.manifest import SPLITS


def assign_splits(clusters: Sequence[str], labels: Sequence[str], config: SplitConfig) -> list[str]:
    """Returns a split for each image, such that every class is on every side and no cluster is on two.

    Within a class the clusters are ordered by a hash of (seed, cluster); the first shares go to test and validation.
    The result depends on the contents and the seed, not on names, order or machine. A cluster that carries several
    labels is dealt out with the class of its first image.

    Raises:
        DataError: There is one class only, or a class has too few different images to be on three sides.
    """
    label_of: dict[str, str] = {}
    for cluster, label in zip(clusters, labels, strict=True):
        label_of.setdefault(cluster, label)
    members: defaultdict[str, list[str]] = defaultdict(list)
    for cluster, label in label_of.items():
        members[label].append(cluster)
    _check_classes(sorted(set(labels)), {label: len(members[label]) for label in set(labels)}, at_least=len(SPLITS))
    side: dict[str, str] = {}
    for own in members.values():
        own.sort(key=lambda cluster: text_digest(str(config.seed), cluster))
        test = _share(len(own), config.test)
        validation = min(_share(len(own), config.validation), len(own) - test - 1)
        for place, cluster in enumerate(own):
            side[cluster] = "test" if place < test else "validation" if place < test + validation else "train"
    return [side[cluster] for cluster in clusters]


def complete_splits(
    given: Sequence[str | None], clusters: Sequence[str], labels: Sequence[str], config: SplitConfig
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
    carved = assign_splits([clusters[row] for row in rows], [labels[row] for row in rows], config)
    for row, side in zip(rows, carved, strict=True):
        sides[row] = side if side in missing else "train"
    return sides


def _share(count: int, fraction: float) -> int:
    return max(1, min(round(count * fraction), count - 2))


def _check_classes(classes: Sequence[str], sizes: dict[str, int], at_least: int) -> None:
    if len(classes) < 2:
        raise DataError(f"one class only ({classes[0]!r}); classification needs two or more class folders with images")
    small = {label: size for label, size in sorted(sizes.items()) if size < at_least}
    if small:
        named = ", ".join(f"{label!r} has {size}" for label, size in list(small.items())[:5])
        raise DataError(
            f"too few different images to split: {named}; each class needs at least {at_least}, "
            "one each for train, validation and test: add images or take the class out"
        )
