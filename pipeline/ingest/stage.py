"""The stage ingest: source in, manifest out."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.config import IngestConfig, SplitConfig
from pipeline.errors import DataError, shown
from pipeline.ingest.answers import Answers
from pipeline.ingest.changes import compare_manifests
from pipeline.ingest.duplicates import Match
from pipeline.ingest.examine import Examination, examine, name_clusters
from pipeline.ingest.manifest import SCHEMA, SPLITS, Manifest
from pipeline.ingest.relabel import Overlay, load_overlay, relabel_by_name, summarise
from pipeline.ingest.result import DuplicatePair, IngestResult, Previous
from pipeline.ingest.scan import Listing, Rejected, list_files
from pipeline.ingest.sources import Item, open_source
from pipeline.ingest.split import assign_splits, complete_splits, settle
from pipeline.ingest.store import ContentStore
from pipeline.progress import Progress

#: The reason for a new image that cannot be on any side.
BRIDGE = "new, and joins images that stand in different splits: on either side it would give something away"


def check_source(config: IngestConfig, data_dir: Path, cache: Path) -> None:
    """Looks whether the source is there and has images enough in classes enough, by their names alone.

    Raises:
        DataError: As `ingest` would if all the files were good.
    """
    items = open_source(config, data_dir, ContentStore(cache / "images")).peek()
    overlay = _overlay(config)
    if items is not None and overlay:
        items = relabel_by_name(items, overlay)
    if items is not None:  # else it is fetched or laid out when it is used; a dry run writes nothing
        deal_out(items, [item.id for item in items], config.split, None)


def ingest(
    config: IngestConfig, data_dir: Path, cache: Path, progress: Progress, previous: Previous | None = None
) -> IngestResult:
    """Returns the manifest of the configured source: every readable image, with its label and split.

    Args:
        config: The section `ingest`.
        data_dir: Where samples are laid out.
        cache: Where what was seen of the files is kept, and images that have no file of their own.
        progress: Told of every file.
        previous: An earlier run to compare with, and whose images keep their side.

    Raises:
        DataError: The source cannot be used; or an image is bad and `ingest.on_bad` is stop.
    """
    with _uncollected():
        return _ingest(config, data_dir, cache, progress, previous)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Holds back the cycle collector, which would look again and again at millions of tuples that all stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def survey(config: IngestConfig, data_dir: Path, cache: Path, progress: Progress) -> IngestResult:
    """Returns what `ingest` would; where the images cannot be dealt out, without splits and not at all an error.

    Raises:
        DataError: There is no image to look at.
    """
    with _uncollected():
        source = open_source(config, data_dir, ContentStore(cache / "images"))
        found = examine(list_files(source, progress), config, cache, progress)
        items = [image.item for image in found.images]
        try:
            splits: Sequence[str | None] = deal_out(items, found.clusters, config.split, None)
        except DataError:
            splits = [item.split for item in items]
        return _result(found, splits)


def _ingest(
    config: IngestConfig, data_dir: Path, cache: Path, progress: Progress, previous: Previous | None
) -> IngestResult:
    overlay = _overlay(config)
    listing = list_files(open_source(config, data_dir, ContentStore(cache / "images")), progress)
    answers = Answers(cache / "ingest", listing, config, overlay.digest if overlay else None)
    before = previous if previous and previous.settles else None
    result = answers.recall(before.manifest if before else None)
    if result is None:
        result = _examined(listing, config, cache, progress, before, overlay)
        answers.remember(result, settled=before is not None)
    changes = compare_manifests(previous.manifest, result.manifest, previous.run) if previous else None
    return replace(result, changes=changes, relabelling=summarise(overlay, result.manifest))


def _overlay(config: IngestConfig) -> Overlay | None:
    return load_overlay(Path(config.relabel).expanduser()) if config.relabel is not None else None


def _examined(
    listing: Listing, config: IngestConfig, cache: Path, progress: Progress, before: Previous | None,
    overlay: Overlay | None,
) -> IngestResult:  # fmt: skip
    found = examine(listing, config, cache, progress, overlay)
    if found.rejected and config.on_bad == "stop":
        first = found.rejected[0]
        count = len(found.rejected)
        raise DataError(
            f"{shown(first.item.path)}: {first.reason} ({count} bad in all; ingest.on_bad=quarantine goes on)"
        )
    sides = _sides(before.manifest) if before else {}
    settled, bridges = settle(found.clusters, [image.look.pixels for image in found.images], sides)
    if bridges and not any(image.item.split for image in found.images):  # a source's own splits are its own affair
        found, settled = _without(found, settled, bridges)
    splits = deal_out([image.item for image in found.images], found.clusters, config.split, settled)
    result = _result(found, splits)
    _check_sides(result.manifest)
    return result


def _result(found: Examination, splits: Sequence[str | None]) -> IngestResult:
    return IngestResult(
        name=found.name,
        source=found.origin,
        manifest=_manifest(found, splits),
        rejected=found.rejected,
        duplicates=tuple(pairs(found, splits)),
        changes=None,
    )


def pairs(found: Examination, splits: Sequence[str | None]) -> Iterator[DuplicatePair]:
    """Yields the matches of an examination by the ids of their images."""
    for match in found.matches:
        first, second = found.images[match.first].item, found.images[match.second].item
        yield DuplicatePair(
            first.id, second.id, first.path, second.path, match.kind, round(match.difference, 2),
            first.label, second.label, splits[match.first] or "", splits[match.second] or "",
        )  # fmt: skip


def _sides(before: Manifest) -> dict[str, str]:
    return dict(zip(before.column("pixels"), before.column("split"), strict=True))


def _without(
    found: Examination, settled: list[str | None], rows: Sequence[int]
) -> tuple[Examination, list[str | None]]:
    """Returns an examination and its settled sides without some images, which are rejected as bridges."""
    gone = set(rows)
    kept = [row for row in range(len(found.images)) if row not in gone]
    place = {row: number for number, row in enumerate(kept)}
    rejected = [Rejected(found.images[row].item, BRIDGE) for row in rows]
    images, groups = tuple(found.images[row] for row in kept), tuple(found.groups[row] for row in kept)
    matches = tuple(
        Match(place[match.first], place[match.second], match.kind, match.difference)
        for match in found.matches
        if match.first in place and match.second in place
    )
    return replace(
        found,
        images=images,
        rejected=tuple(sorted([*found.rejected, *rejected])),
        matches=matches,
        groups=groups,
        clusters=name_clusters(images, matches, groups),
    ), [settled[row] for row in kept]


def deal_out(
    items: Sequence[Item], clusters: Sequence[str], config: SplitConfig, settled: Sequence[str | None] | None
) -> list[str]:
    """Returns a split for each image: the source's own, completed where a side is missing, else new ones.

    Raises:
        DataError: There are too few images, or classes, to be on three sides.
    """
    labels = [item.label for item in items]
    if any(item.split for item in items):
        return complete_splits([item.split for item in items], clusters, labels, config, settled)
    return assign_splits(clusters, labels, config, settled)


def _manifest(found: Examination, splits: Sequence[str | None]) -> Manifest:
    items: list[Item] = [image.item for image in found.images]
    looks = [image.look for image in found.images]
    columns: dict[str, Sequence[Any]] = {
        "id": [item.id for item in items],
        "path": [look.stored or item.path for item, look in found.images],
        "original": [item.path for item in items],
        "label": [item.label for item in items],
        "source_label": [item.source_label or item.label for item in items],
        "split": splits,
        "cluster": found.clusters,
        "group": found.groups,
        "bytes": [look.size for look in looks],
    }
    columns |= {name: [getattr(look, name) for look in looks] for name in SCHEMA.names if name not in columns}
    return Manifest(pa.table([pa.array(columns[field.name], field.type) for field in SCHEMA], schema=SCHEMA))


def _check_sides(manifest: Manifest) -> None:
    for split, counts in manifest.counts().items():
        if not sum(counts.values()):
            raise DataError(f"no readable image is left in {split}; the splits needed are {', '.join(SPLITS)}")
