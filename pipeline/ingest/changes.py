"""What is different from an earlier manifest: in numbers for `ingest.json`, in words for people."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.ingest.manifest import Manifest

#: Ids of each kind that `ingest.json` names.
_NAMED = 100

#: What makes two manifests say the same of the same images.
COMPARED = ["pixels", "id", "label", "split"]


@dataclass(frozen=True)
class Changes:
    """What changed since an earlier run; images are known by their pixels, so a file that moved is no change.

    Attributes:
        since: The earlier run.
        added: Ids of images that were not there.
        removed: Ids, as they were then, of images that are gone.
        relabelled: (id, earlier label, label now).
        moved: (id, earlier split, split now).
        shares: Of each class whose share of all images changed: (then, now).
    """

    since: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    relabelled: tuple[tuple[str, str, str], ...]
    moved: tuple[tuple[str, str, str], ...]
    shares: dict[str, tuple[float, float]]

    def document(self) -> dict[str, Any]:
        """Returns the counts, the first hundred ids of each kind and the class shares, as JSON."""
        kinds = {name: list(value) for name, value in asdict(self).items() if isinstance(value, tuple)}
        counts = {f"{name}_count": len(entries) for name, entries in kinds.items()}
        return {
            "since": self.since, **counts, **{name: entries[:_NAMED] for name, entries in kinds.items()},
            "class_shares": {label: list(pair) for label, pair in self.shares.items()},
        }  # fmt: skip

    def words(self) -> str:
        """Returns the changes in one line."""
        counts = [(len(self.added), "added"), (len(self.removed), "removed"), (len(self.relabelled), "relabelled"),
                  (len(self.moved), "moved to another split")]  # fmt: skip
        said = ", ".join(f"{count} {what}" for count, what in counts if count)
        if not said:
            return f"since {self.since}: nothing changed"
        label, (then, now) = max(
            self.shares.items(), key=lambda entry: abs(entry[1][1] - entry[1][0]), default=("", (0.0, 0.0))
        )
        share = f"; {label} went from {then:.1%} to {now:.1%} of all images" if abs(now - then) >= 0.005 else ""
        return f"since {self.since}: {said}{share}"


def compare_manifests(before: Manifest, after: Manifest, since: str) -> Changes | None:
    """Returns what changed from one manifest to a later one, None where they have no image in common."""
    if before.table.select(COMPARED).equals(after.table.select(COMPARED)):
        return Changes(since, (), (), (), (), {})
    old, new = _by_image(before), _by_image(after)
    if not old.keys() & new.keys():
        return None
    added, removed, relabelled, moved = [], [], [], []
    for image in old.keys() | new.keys():
        then, now = old[image], new[image]
        added += [row[0] for row in now[len(then) :]]
        removed += [row[0] for row in then[len(now) :]]
        for (_, old_label, old_split), (name, label, split) in zip(then, now, strict=False):
            if old_label != label:
                relabelled.append((name, old_label, label))
            if old_split != split:
                moved.append((name, old_split, split))
    return Changes(
        since, tuple(sorted(added)), tuple(sorted(removed)), tuple(sorted(relabelled)), tuple(sorted(moved)),
        _shares(before, after),
    )  # fmt: skip


_Row = tuple[str, str, str]


def _by_image(manifest: Manifest) -> defaultdict[str, list[_Row]]:
    """Returns (id, label, split) of the files of each image; copies stand in the order of their labels and ids."""
    found: defaultdict[str, list[_Row]] = defaultdict(list)
    columns = (manifest.column(name) for name in COMPARED)
    for image, *row in zip(*columns, strict=True):
        found[image].append((row[0], row[1], row[2]))
    for rows in found.values():
        rows.sort(key=lambda row: (row[1], row[0]))
    return found


def _shares(before: Manifest, after: Manifest) -> dict[str, tuple[float, float]]:
    then, now = Counter(before.column("label")), Counter(after.column("label"))
    shares = {
        label: (round(then[label] / len(before), 4), round(now[label] / len(after), 4))
        for label in sorted(then.keys() | now.keys())
    }
    return {label: pair for label, pair in shares.items() if pair[0] != pair[1]}
