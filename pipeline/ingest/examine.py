"""Everything that is to be known of a source's images before one is trained on."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import IngestConfig
from pipeline.errors import DataError, shown
from pipeline.ingest.duplicates import Match, cluster, exact_matches
from pipeline.ingest.index import index_path
from pipeline.ingest.near import find_near
from pipeline.ingest.relabel import Overlay, relabel_scanned
from pipeline.ingest.scan import Listing, Rejected, Scanned, scan
from pipeline.ingest.store import ContentStore
from pipeline.progress import Progress

#: A side of fewer pixels than the smallest sample of this project has holds nothing to learn.
SMALLEST_SIDE = 8


@dataclass(frozen=True)
class Examination:
    """What was found in a source.

    Attributes:
        name: The source's, short.
        origin: The source's, whole.
        images: The images that can be trained on, ordered by id.
        rejected: The others, ordered by id, and why.
        matches: Pairs of rows of `images` that show the same picture.
        groups: What the source or `ingest.split.group` says each image belongs to, None for nothing.
        clusters: A name for each image; images that share it must share a split.
    """

    name: str
    origin: str
    images: tuple[Scanned, ...]
    rejected: tuple[Rejected, ...]
    matches: tuple[Match, ...]
    groups: tuple[str | None, ...]
    clusters: tuple[str, ...]


def examine(
    listing: Listing, config: IngestConfig, cache: Path, progress: Progress, overlay: Overlay | None = None
) -> Examination:
    """Returns what is in a source: every image decoded once, or known from an earlier look at unchanged bytes.

    Args:
        listing: What the source lists.
        config: The section `ingest`.
        cache: Where what was seen is kept, and images that must be transcoded.
        progress: Told of every file.
        overlay: Corrected labels.

    Raises:
        DataError: Nothing in it can be used, or a correction is for nothing in it.
    """
    kept = index_path(cache / "ingest", listing.origin)
    readable, bad = scan(listing, kept, ContentStore(cache / "images"), config.rescan, progress)
    readable, bad = relabel_scanned(readable, bad, overlay)
    doubtful = dict(_doubtful(readable, frozenset(config.allow)))
    images = tuple(image for row, image in enumerate(readable) if row not in doubtful) if doubtful else tuple(readable)
    bad = sorted([*bad, *(Rejected(readable[row].item, reason) for row, reason in doubtful.items())])
    if not images:
        first = f"{shown(bad[0].item.id)}: {bad[0].reason}"
        raise DataError(f"none of the {len(bad)} images in {shown(listing.origin)} can be used; {first}")
    matches = list(exact_matches([image.look.pixels for image in images]))
    if config.duplicates == "near":
        matches += find_near(images, kept.with_suffix(".pairs.json"), progress)
    groups = _groups(images, config.split.group)
    clusters = name_clusters(images, matches, groups)
    return Examination(listing.name, listing.origin, images, tuple(bad), tuple(matches), groups, clusters)


def name_clusters(images: Sequence[Scanned], matches: Sequence[Match], groups: Sequence[str | None]) -> tuple[str, ...]:
    """Returns for each image the smallest digest among those it must share a split with.

    It does not depend on names and order.
    """
    tops = cluster(len(images), [match[:2] for match in matches] + list(_group_links(groups)))
    digests = [image.look.sha256 for image in images]
    names = list(digests)
    for row, top in enumerate(tops):
        if row != top:
            names[top] = min(names[top], digests[row])
    return tuple(names[top] for top in tops)


def _doubtful(images: Sequence[Scanned], allowed: frozenset[str]) -> Iterator[tuple[int, str]]:
    """Yields the rows of images that can be read and should not be trained on, with the reason."""
    counts = Counter([look.pixels for _, look in images])
    labels_of: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for item, look in images:
        if counts[look.pixels] > 1:
            labels_of[look.pixels].setdefault(item.label, item.id)
    for row, (item, look) in enumerate(images):
        if counts[look.pixels] == 1 and not look.constant and min(look.width, look.height) >= SMALLEST_SIDE:
            continue
        others = [other for label, other in labels_of.get(look.pixels, {}).items() if label != item.label]
        if "tiny" not in allowed and min(look.width, look.height) < SMALLEST_SIDE:
            yield row, f"tiny: {look.width} x {look.height} pixels, a side under {SMALLEST_SIDE}{_or('tiny')}"
        elif "constant" not in allowed and look.constant:
            yield row, f"constant: all its pixels are equal, nothing to learn from{_or('constant')}"
        elif "two_labels" not in allowed and others:
            yield row, f"under two labels: the same image as {shown(others[0])}; keep the right one{_or('two_labels')}"


def _or(kind: str) -> str:
    return f" (ingest.allow=[{kind}] takes it all the same)"


def _groups(images: Sequence[Scanned], pattern: str | None) -> tuple[str | None, ...]:
    if pattern is None:
        return tuple(image.item.group for image in images)
    found = [re.search(pattern, image.item.id) for image in images]
    if not any(found):
        raise DataError(f"ingest.split.group: {pattern!r} matches none of the names, such as {images[0].item.id!r}")
    named = [match and (match.group(1) if match.re.groups else match.group()) for match in found]
    return tuple(name or image.item.group for name, image in zip(named, images, strict=True))


def _group_links(groups: Sequence[str | None]) -> Iterator[tuple[int, int]]:
    first_of: dict[str, int] = {}
    for row, group in enumerate(groups):
        if group is not None and first_of.setdefault(group, row) != row:
            yield first_of[group], row
