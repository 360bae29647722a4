"""Which test images two runs share. Images are known by their pixels, so files may have moved or been saved anew."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.files import text_digest
from pipeline.ingest.duplicates import cluster
from pipeline.ingest.manifest import SPLITS, Manifest


@dataclass(frozen=True)
class SharedTests:
    """What the test sets of two runs, A and B, have in common, and what not.

    Attributes:
        fingerprints: Of each test set: equal where both hold the same pixels with the same labels.
        pairs: (row among A's test images, row among B's) of each image that both have with one label.
        clusters: A number for each pair; those that are copies of each other, in the eyes of either run, share it.
        only_a: Images that only A's test set has; `learnt_by_b` of them B was trained or chosen on.
        only_b: Images that only B's test set has; `learnt_by_a` of them A was trained or chosen on.
        relabelled: Images that both have, with different labels.
        learnt: Images that both have with one label, but that a run has among its training or validation images too.
        learnt_by_a, learnt_by_b: See above.
    """

    fingerprints: tuple[str, str]
    pairs: tuple[tuple[int, int], ...]
    clusters: tuple[int, ...]
    only_a: int
    only_b: int
    relabelled: int
    learnt: int
    learnt_by_a: int
    learnt_by_b: int

    @property
    def equal(self) -> bool:
        """Whether the two test sets are the same."""
        return self.fingerprints[0] == self.fingerprints[1]

    def differences(self, a: str, b: str) -> str:
        """Returns what differs in one line, the runs called by the names given."""
        parts = []
        for count, learnt, own, other in ((self.only_a, self.learnt_by_b, a, b), (self.only_b, self.learnt_by_a, b, a)):
            if count:
                trained = f" ({learnt:,} of them {other} has learnt from)" if learnt else ""
                parts.append(f"{count:,} image{'s' * (count != 1)} only in {own}'s{trained}")
        if self.relabelled:
            parts.append(f"{self.relabelled:,} with {'other labels' if self.relabelled > 1 else 'another label'}")
        return ", ".join(parts)

    def document(self) -> dict[str, Any]:
        """Returns the counts for JSON."""
        fields = ("only_a", "only_b", "relabelled", "learnt", "learnt_by_a", "learnt_by_b")
        return {"same": self.equal, "fingerprints": list(self.fingerprints)} | {
            name: value for name, value in asdict(self).items() if name in fields
        }


def match_test_sets(a: Manifest, b: Manifest) -> SharedTests:
    """Returns which test images the manifests of two runs share.

    Several files of the same pixels are matched one to one, those of one label first.
    """
    test_a, test_b = a.split("test"), b.split("test")
    rows_a, rows_b = _rows(test_a), _rows(test_b)
    learnt_a, learnt_b = _learnt(a), _learnt(b)
    pairs: list[tuple[int, int]] = []
    shared_pixels: list[str] = []
    only: dict[str, list[str]] = {"a": [], "b": []}
    relabelled = 0
    for pixels in sorted(rows_a.keys() | rows_b.keys()):
        one, other = rows_a.get(pixels, {}), rows_b.get(pixels, {})
        together = [pair for label in one for pair in zip(one[label], other.get(label, []), strict=False)]
        pairs += together
        shared_pixels += [pixels] * len(together)
        left_a, left_b = (sum(map(len, rows.values())) - len(together) for rows in (one, other))
        relabelled += min(left_a, left_b)
        only["a"] += [pixels] * max(0, left_a - left_b)
        only["b"] += [pixels] * max(0, left_b - left_a)
    return SharedTests(
        fingerprints=(fingerprint(test_a), fingerprint(test_b)),
        pairs=tuple(pairs),
        clusters=_joint_clusters(pairs, test_a, test_b),
        only_a=len(only["a"]),
        only_b=len(only["b"]),
        relabelled=relabelled,
        learnt=sum(pixels in learnt_a or pixels in learnt_b for pixels in shared_pixels),
        learnt_by_a=sum(pixels in learnt_a for pixels in only["b"]),
        learnt_by_b=sum(pixels in learnt_b for pixels in only["a"]),
    )


def without_learnt(shared: SharedTests, a: Manifest, b: Manifest) -> SharedTests:
    """Returns the shared test images without those that a run has among its training or validation images too."""
    learnt, pixels = _learnt(a) | _learnt(b), image_keys(a.split("test"))
    kept = [place for place, (row, _) in enumerate(shared.pairs) if pixels[row] not in learnt]
    return replace(
        shared,
        pairs=tuple(shared.pairs[place] for place in kept),
        clusters=tuple(shared.clusters[place] for place in kept),
    )


def fingerprint(test: Manifest) -> str:
    """Returns the SHA-256 over pixels and labels of a test split: labels count, names, files and order do not."""
    rows = zip(image_keys(test), test.column("label"), strict=True)
    return text_digest(*("\x1f".join(row) for row in sorted(rows)))


def image_keys(manifest: Manifest) -> list[str]:
    """Returns what each image is known by: its pixels, else, where they were not noted, its bytes."""
    return [
        pixels or sha256 for pixels, sha256 in zip(manifest.column("pixels"), manifest.column("sha256"), strict=True)
    ]


def dataset_differences(a: Manifest, b: Manifest) -> dict[str, Any]:
    """Returns how the data of two runs differ, for JSON: digests, and of each split the images that only one has."""
    found: dict[str, Any] = {"same": a.digest == b.digest, "digests": [a.digest, b.digest]}
    for split in SPLITS:
        one, other = a.split(split), b.split(split)
        left, right = Counter(image_keys(one)), Counter(image_keys(other))
        found[split] = {
            "a": len(one),
            "b": len(other),
            "only_a": (left - right).total(),
            "only_b": (right - left).total(),
        }
    found["relabelled"] = _relabelled(a, b)
    found["classes_only_a"] = sorted(set(a.classes) - set(b.classes))
    found["classes_only_b"] = sorted(set(b.classes) - set(a.classes))
    return found


def _relabelled(a: Manifest, b: Manifest) -> int:
    """Returns how many images both have in any split, with different labels."""
    one, other = _rows(a), _rows(b)
    count = 0
    for pixels in one.keys() & other.keys():
        left, right = (Counter({label: len(rows) for label, rows in found[pixels].items()}) for found in (one, other))
        count += min((left - right).total(), (right - left).total())
    return count


def _rows(manifest: Manifest) -> dict[str, dict[str, list[int]]]:
    """Returns the rows of each image and label, in order: `{pixels: {label: [row, ...]}}`."""
    found: defaultdict[str, dict[str, list[int]]] = defaultdict(dict)
    for row, (pixels, label) in enumerate(zip(image_keys(manifest), manifest.column("label"), strict=True)):
        found[pixels].setdefault(label, []).append(row)
    return dict(found)


def _learnt(manifest: Manifest) -> set[str]:
    """Returns the images that a run was trained on, or chosen by."""
    return {pixels for split in ("train", "validation") for pixels in image_keys(manifest.split(split))}


def _joint_clusters(pairs: Sequence[tuple[int, int]], test_a: Manifest, test_b: Manifest) -> tuple[int, ...]:
    """Returns a number for each pair: two have the same if A or B, or a chain of both, put them into one cluster."""
    links = []
    for side, test in enumerate((test_a, test_b)):
        names = test.column("cluster")
        first: dict[str, int] = {}
        for place, pair in enumerate(pairs):
            links.append((first.setdefault(names[pair[side]], place), place))
    return tuple(cluster(len(pairs), links))
