"""The stage ingest: source in, manifest out."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.config import IngestConfig, SplitConfig
from pipeline.errors import DataError
from pipeline.ingest.changes import Changes, compare_manifests
from pipeline.ingest.duplicates import Kind, Match
from pipeline.ingest.examine import Examination, examine
from pipeline.ingest.manifest import SCHEMA, SPLITS, Manifest
from pipeline.ingest.scan import Rejected
from pipeline.ingest.sources import Item, open_source
from pipeline.ingest.sources.base import shown
from pipeline.ingest.split import assign_splits, complete_splits, settle
from pipeline.ingest.store import ContentStore
from pipeline.progress import Progress

BRIDGE = "new, and a copy of images that stand in different splits: on either side it would give something away"


@dataclass(frozen=True)
class Previous:
    """What an earlier run of the same experiment found.

    Attributes:
        run: Its name.
        manifest: Its images.
        settles: Whether its splits were made by the same settings, so that old images keep their side.
    """

    run: str
    manifest: Manifest
    settles: bool


@dataclass(frozen=True)
class DuplicatePair:
    """Two images of the data set that show the same picture: a line of `duplicates.csv`.

    Attributes:
        first_id: Of the one.
        second_id: Of the other.
        first_path: The file that the source named.
        second_path: Likewise.
        kind: "exact", "near" or "mirrored".
        difference: Mean absolute difference of the aligned RGB values, in [0, 255].
        first_label: Label of the one.
        second_label: Label of the other; two labels for one picture are worth a look.
        first_split: Split of the one.
        second_split: Split of the other; two splits are a leak.
    """

    first_id: str
    second_id: str
    first_path: str
    second_path: str
    kind: Kind
    difference: float
    first_label: str
    second_label: str
    first_split: str
    second_split: str

    @property
    def leak(self) -> bool:
        """Returns whether they stand in different splits."""
        return self.first_split != self.second_split


@dataclass(frozen=True)
class IngestResult:
    """What ingest found: the manifest, and the images that were left out with the reason.

    Attributes:
        name: Of the data set, short.
        source: Where it came from, whole.
        manifest: The images.
        rejected: Those left out.
        duplicates: Pairs of images that show the same picture.
        transcoded: Why images were stored anew as PNG, with their number.
        changes: What is different from the previous run, None where there is none to compare with.
    """

    name: str
    source: str
    manifest: Manifest
    rejected: tuple[Rejected, ...]
    duplicates: tuple[DuplicatePair, ...]
    transcoded: dict[str, int]
    changes: Changes | None

    @property
    def leaks(self) -> list[DuplicatePair]:
        """Returns the duplicates that stand in different splits: only a source's own splits have any."""
        return [pair for pair in self.duplicates if pair.leak]

    def summary(self) -> dict[str, Any]:
        """Returns what `ingest.json` holds."""
        kinds = Counter(pair.kind for pair in self.duplicates)
        return {
            "source": self.source,
            "images": len(self.manifest),
            "quarantined": len(self.rejected),
            "transcoded": self.transcoded,
            "duplicates": {kind: kinds[kind] for kind in ("exact", "near", "mirrored")},
            "leaks": len(self.leaks),
            "clusters": len(set(self.manifest.column("cluster"))),
            "classes": list(self.manifest.classes),
            "counts": self.manifest.counts(),
            "digest": self.manifest.digest,
            "changes": self.changes.document() if self.changes else None,
        }

    def words(self) -> Iterator[str]:
        """Yields what a person should know at the end of ingest, a line each."""
        sizes = {split: sum(counts.values()) for split, counts in self.manifest.counts().items()}
        split = ", ".join(f"{count} {name}" for name, count in sizes.items())
        yield f"{len(self.manifest)} images in {len(self.manifest.classes)} classes: {split}"
        if self.transcoded:
            why = ", ".join(f"{count} {reason}" for reason, count in self.transcoded.items())
            yield f"{sum(self.transcoded.values())} stored anew as PNG, so that all decoders agree: {why}"
        kinds = Counter(pair.kind for pair in self.duplicates)
        if self.duplicates:
            said = ", ".join(f"{kinds[kind]} {kind}" for kind in ("exact", "near", "mirrored") if kinds[kind])
            where = "" if self.leaks else ", each on one side of the split"
            yield f"{len(self.duplicates)} pairs of images show the same picture ({said}){where}"
        if self.leaks:
            pair = self.leaks[0]
            yield (
                f"LEAK: {len(self.leaks)} of these pairs stand in different splits of the source, such as "
                f"{shown(pair.first_id)} ({pair.first_split}) and {shown(pair.second_id)} ({pair.second_split}); "
                "the test score will be too good"
            )
        if self.changes:
            yield self.changes.words()


def check_source(config: IngestConfig, data_dir: Path, cache: Path) -> None:
    """Looks whether the source is there and has images enough in classes enough, by their names alone.

    Raises:
        DataError: As `ingest` would if all the files were good.
    """
    items = open_source(config, data_dir, ContentStore(cache / "images")).peek()
    if items is not None:  # else it is fetched or laid out when it is used; a dry run writes nothing
        _assign(items, [item.id for item in items], config.split, None)


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
        found = examine(open_source(config, data_dir, ContentStore(cache / "images")), config, cache, progress)
        items = [image.item for image in found.images]
        try:
            splits: Sequence[str | None] = _assign(items, found.clusters, config.split, None)
        except DataError:
            splits = [item.split for item in items]
        return _result(found, splits, None)


def _ingest(
    config: IngestConfig, data_dir: Path, cache: Path, progress: Progress, previous: Previous | None
) -> IngestResult:
    source = open_source(config, data_dir, ContentStore(cache / "images"))
    found = examine(source, config, cache, progress)
    if found.rejected and config.on_bad == "stop":
        first = found.rejected[0]
        count = len(found.rejected)
        raise DataError(
            f"{shown(first.item.path)}: {first.reason} ({count} bad in all; ingest.on_bad=quarantine goes on)"
        )
    before = _sides(previous) if previous and previous.settles else {}
    settled, bridges = settle(found.clusters, [image.look.pixels for image in found.images], before)
    if bridges and not any(image.item.split for image in found.images):  # a source's own splits are its own affair
        found, settled = _without(found, settled, bridges)
    splits = _assign([image.item for image in found.images], found.clusters, config.split, settled)
    result = _result(found, splits, previous)
    _check_sides(result.manifest)
    return result


def _result(found: Examination, splits: Sequence[str | None], previous: Previous | None) -> IngestResult:
    manifest = _manifest(found, splits)
    return IngestResult(
        name=found.name,
        source=found.origin,
        manifest=manifest,
        rejected=found.rejected,
        duplicates=tuple(pairs(found, splits)),
        transcoded=dict(Counter(image.look.transcoded for image in found.images if image.look.transcoded)),
        changes=compare_manifests(previous.manifest, manifest, previous.run) if previous else None,
    )


def pairs(found: Examination, splits: Sequence[str | None]) -> Iterator[DuplicatePair]:
    """Yields the matches of an examination by the ids of their images."""
    for match in found.matches:
        first, second = found.images[match.first].item, found.images[match.second].item
        yield DuplicatePair(
            first.id, second.id, first.path, second.path, match.kind, round(match.difference, 2),
            first.label, second.label, splits[match.first] or "", splits[match.second] or "",
        )  # fmt: skip


def _sides(previous: Previous) -> dict[str, str]:
    return dict(zip(previous.manifest.column("pixels"), previous.manifest.column("split"), strict=True))


def _without(
    found: Examination, settled: list[str | None], rows: Sequence[int]
) -> tuple[Examination, list[str | None]]:
    """Returns an examination and its settled sides without some images, which are rejected as bridges."""
    gone = set(rows)
    kept = [row for row in range(len(found.images)) if row not in gone]
    place = {row: number for number, row in enumerate(kept)}
    rejected = [Rejected(found.images[row].item, BRIDGE) for row in rows]
    return replace(
        found,
        images=tuple(found.images[row] for row in kept),
        rejected=tuple(sorted([*found.rejected, *rejected])),
        matches=tuple(
            Match(place[match.first], place[match.second], match.kind, match.difference)
            for match in found.matches
            if match.first in place and match.second in place
        ),
        groups=tuple(found.groups[row] for row in kept),
        clusters=tuple(found.clusters[row] for row in kept),
    ), [settled[row] for row in kept]


def _assign(
    items: Sequence[Item], clusters: Sequence[str], config: SplitConfig, settled: Sequence[str | None] | None
) -> list[str]:
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
