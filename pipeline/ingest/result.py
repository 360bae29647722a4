"""What ingest found, as it is stored, logged and told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from pipeline.errors import shown
from pipeline.ingest.changes import Changes
from pipeline.ingest.duplicates import Kind
from pipeline.ingest.manifest import Manifest
from pipeline.ingest.relabel import Relabelling
from pipeline.ingest.scan import Rejected

#: Ids of each kind that `ingest.json` names; the manifest has them all.
MOST_NAMED = 100


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
        changes: What is different from the previous run, None where there is none to compare with.
        relabelling: What a file of corrected labels did, None without one.
    """

    name: str
    source: str
    manifest: Manifest
    rejected: tuple[Rejected, ...]
    duplicates: tuple[DuplicatePair, ...]
    changes: Changes | None
    relabelling: Relabelling | None = None

    @property
    def leaks(self) -> list[DuplicatePair]:
        """Returns the duplicates that stand in different splits: only a source's own splits have any."""
        return [pair for pair in self.duplicates if pair.leak]

    @property
    def transcoded(self) -> list[str]:
        """Returns the ids of images that were stored anew as PNG."""
        return self._ids(pc.is_valid(self.manifest.table.column("transcoded")))

    @property
    def turned(self) -> list[str]:
        """Returns the ids of images that their EXIF orientation turns, phones' photographs above all."""
        return self._ids(pc.not_equal(self.manifest.table.column("orientation"), 1))

    def _ids(self, mask: Any) -> list[str]:
        names: list[str] = self.manifest.table.column("id").filter(mask).to_pylist()
        return names

    @staticmethod
    def _named(ids: list[str]) -> dict[str, Any]:
        return {"count": len(ids), "ids": ids[:MOST_NAMED]}

    @property
    def torn(self) -> list[list[str]]:
        """Returns the ids of images that belong together, as copies or by group, and stand in different splits.

        A source's own splits may have some, and splits of an earlier run once a group column or another setting shows
        that images belong together.
        """
        members: dict[str, list[tuple[str, str]]] = {}
        names = (self.manifest.column(name) for name in ("cluster", "id", "split"))
        for cluster, name, split in zip(*names, strict=True):
            members.setdefault(cluster, []).append((name, split))
        return [
            [name for name, _ in found]
            for found in members.values()
            if len(found) > 1 and len({split for _, split in found}) > 1
        ]

    @property
    def lost_classes(self) -> list[str]:
        """Returns the classes of which no image can be used, or none is left by that label."""
        named = {bad.item.label for bad in self.rejected} | set(self.manifest.column("source_label"))
        return sorted(named - set(self.manifest.classes))

    def summary(self) -> dict[str, Any]:
        """Returns what `ingest.json` holds."""
        kinds = Counter(pair.kind for pair in self.duplicates)
        return {
            "source": self.source,
            "images": len(self.manifest),
            "quarantined": len(self.rejected),
            "transcoded": self._named(self.transcoded),
            "turned_upright": self._named(self.turned),
            "duplicates": {kind: kinds[kind] for kind in ("exact", "near", "mirrored")},
            "leaks": len(self.leaks),
            "torn_clusters": len(self.torn),
            "lost_classes": self.lost_classes,
            "clusters": len(set(self.manifest.column("cluster"))),
            "classes": list(self.manifest.classes),
            "counts": self.manifest.counts(),
            "relabel": self.relabelling.document() if self.relabelling else None,
            "digest": self.manifest.digest,
            "changes": self.changes.document() if self.changes else None,
        }

    def words(self) -> Iterator[str]:
        """Yields what a person should know at the end of ingest, a line each."""
        sizes = {split: sum(counts.values()) for split, counts in self.manifest.counts().items()}
        split = ", ".join(f"{count} {name}" for name, count in sizes.items())
        yield f"{len(self.manifest)} images in {len(self.manifest.classes)} classes: {split}"
        if self.relabelling:
            yield self.relabelling.words()
        if self.transcoded:
            yield f"{_some(self.transcoded)} stored anew as PNG, so that all decoders agree"
        if self.turned:
            yield f"{_some(self.turned)} turned upright, as the file says (EXIF)"
        kinds = Counter(pair.kind for pair in self.duplicates)
        if self.duplicates:
            said = ", ".join(f"{kinds[kind]} {kind}" for kind in ("exact", "near", "mirrored") if kinds[kind])
            where = "" if self.leaks else ", each on one side of the split"
            yield f"{len(self.duplicates)} pairs of images show the same picture ({said}){where}"
        twofold = [pair for pair in self.duplicates if pair.first_label != pair.second_label]
        if twofold:
            first, second = shown(twofold[0].first_id), shown(twofold[0].second_id)
            yield f"pairs under two labels: {len(twofold)}, such as {first} and {second}; one may be wrong"
        torn = self.torn
        if torn:
            sides = dict(zip(self.manifest.column("id"), self.manifest.column("split"), strict=True))
            first, second = torn[0][0], next(name for name in torn[0] if sides[name] != sides[torn[0][0]])
            yield (
                f"LEAK: {len(torn)} sets of images that belong together stand in different splits, such as "
                f"{shown(first)} ({sides[first]}) and {shown(second)} ({sides[second]}); the test score will be too "
                "good: put each on one side, or deal out anew with another ingest.split.seed"
            )
        for label in self.lost_classes:
            yield f"class {label!r} has no usable image; it will not be learnt"
        if self.changes:
            yield self.changes.words()


def _some(ids: Sequence[str]) -> str:
    """Returns the number of images and the first of them, to begin a sentence with."""
    return f"{len(ids)} {'image' if len(ids) == 1 else 'images'} ({shown(ids[0])}{', ...' if len(ids) > 1 else ''})"
