"""Corrected labels from a CSV, laid over those of the source. The images and their folders are never touched."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import DataError, nearest, shown
from pipeline.ingest.manifest import Manifest
from pipeline.ingest.scan import Rejected, Scanned
from pipeline.ingest.sources.base import Item

COLUMNS = ("id", "sha256", "new_label")
LAYOUT = "fixes have the columns id and new_label, and sha256 to find images that were moved; others are ignored"

#: What spreadsheets put between values, by the language they are set to.
_DELIMITERS = ",;\t"


class Fix(NamedTuple):
    """A label that is to be another.

    Attributes:
        id: Of the image, as in the manifest.
        sha256: Of its file's bytes, empty where that is not known.
        label: The new one.
    """

    id: str
    sha256: str
    label: str


@dataclass(frozen=True)
class Overlay:
    """A file of fixes.

    Attributes:
        path: Where it was read.
        digest: SHA-256 of its bytes.
        fixes: In the order of its lines; lines without a new label are none.
    """

    path: str
    digest: str
    fixes: tuple[Fix, ...]


@dataclass(frozen=True)
class Relabelling:
    """What an overlay did, for `ingest.json` and for people.

    Attributes:
        file: The overlay's path.
        digest: Of its bytes.
        fixes: How many it holds.
        changed: Images whose label is not what their source gave.
        moves: (source's label, label now) -> images, the most frequent first.
    """

    file: str
    digest: str
    fixes: int
    changed: int
    moves: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Returns what `ingest.json` holds under `relabel`."""
        moves = [{"from": old, "to": new, "count": count} for (old, new), count in self.moves.items()]
        return {
            "file": shown(self.file), "digest": self.digest, "fixes": self.fixes, "changed": self.changed,
            "from_to": moves,
        }  # fmt: skip

    def words(self) -> str:
        """Returns it in one line."""
        said = [f"{count} {old} -> {new}" for (old, new), count in self.moves.items()]
        more = f" and {len(said) - 3} more kinds" if len(said) > 3 else ""
        counted = f"{self.changed} {'label is' if self.changed == 1 else 'labels are'} not the source's"
        return f"{counted}, by {shown(self.file)}" + (f": {', '.join(said[:3])}{more}" if said else "")


def load_overlay(path: Path) -> Overlay:
    """Returns the fixes in a CSV: `label_noise.csv` with `new_label` filled in, or a file like it.

    Commas, semicolons and tabs are understood, as is the byte order mark that spreadsheets begin with.

    Raises:
        DataError: The file cannot be read, lacks a column, or says two things of one image; one line.
    """
    name = shown(str(path))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"fixes {name} cannot be read: {error.strerror}; name the CSV with the new labels") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"fixes {name} are not UTF-8 text; save them as CSV in UTF-8") from error
    fixes: dict[tuple[str, str], Fix] = {}
    for fix in _fixes(name, text):
        if fixes.setdefault((fix.id, fix.sha256), fix).label != fix.label:
            raise _contradiction(fix.id or fix.sha256, fixes[fix.id, fix.sha256].label, fix.label)
    return Overlay(str(path), hashlib.sha256(data).hexdigest(), tuple(fixes.values()))


def _fixes(name: str, text: str) -> Iterator[Fix]:
    header = text.split("\n", 1)[0]
    delimiter = max(_DELIMITERS, key=header.count)  # of equals the first, the comma
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="")
    columns = [column.strip() for column in reader.fieldnames or ()]
    reader.fieldnames = columns
    for needed in ("id", "new_label"):
        if columns.count(needed) != 1:
            found = ", ".join(map(repr, columns)) or "nothing"
            many = "two columns" if columns.count(needed) else "no column"
            raise DataError(f"fixes {name} have {many} {needed!r} but {found}; {LAYOUT}")
    try:
        for row in reader:
            if None in row:
                raise DataError(
                    f"fixes {name}, line {reader.line_num}: more values than columns; is a comma not quoted?"
                )
            if row["new_label"].strip():
                yield Fix(row["id"], row.get("sha256", "").strip().lower(), row["new_label"].strip())
    except csv.Error as error:
        raise DataError(f"fixes {name}, line {reader.line_num}: {error}; is a quote not closed?") from error


def relabel_scanned(
    readable: Sequence[Scanned], bad: Sequence[Rejected], overlay: Overlay | None
) -> tuple[list[Scanned], list[Rejected]]:
    """Returns the same images, their labels fixed.

    Raises:
        DataError: As `relabel`.
    """
    if overlay is None:
        return list(readable), list(bad)
    items = [image.item for image in readable] + [rejected.item for rejected in bad]
    digests = [image.look.sha256 for image in readable] + [None] * len(bad)
    fixed = relabel(items, digests, overlay)
    return (
        [image._replace(item=item) for image, item in zip(readable, fixed, strict=False)],
        [rejected._replace(item=item) for rejected, item in zip(bad, fixed[len(readable) :], strict=True)],
    )


def relabel(items: Sequence[Item], digests: Sequence[str | None], overlay: Overlay) -> list[Item]:
    """Returns items with their labels fixed; what the source said stays in `source_label`.

    A fix is for the image of its id if that holds the bytes that the fix was made for, else for all images that do.

    Args:
        items: All of a source.
        digests: SHA-256 of each file, None where it is not known: then the id alone decides.
        overlay: The fixes.

    Raises:
        DataError: A fix is for no image, names a label that no image has, or contradicts another.
    """
    _check_labels(overlay, (item.label for item in items))
    row_of = {item.id: row for row, item in enumerate(items)}
    rows_of: defaultdict[str, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        if digest:
            rows_of[digest].append(row)
    fixed, lost = dict[int, Fix](), list[Fix]()
    for fix in overlay.fixes:
        row = row_of.get(fix.id, -1)
        same = row >= 0 and (not fix.sha256 or digests[row] in (None, fix.sha256))
        rows = [row] if same else rows_of.get(fix.sha256, [])
        for place in rows:
            if fixed.setdefault(place, fix).label != fix.label:
                raise _contradiction(items[place].id, fixed[place].label, fix.label)
        if not rows:
            lost.append(fix)
    if lost:
        raise _unknown(overlay, lost, row_of)
    return [
        item._replace(label=fixed[row].label, source_label=item.label) if row in fixed else item
        for row, item in enumerate(items)
    ]


def relabel_by_name(items: Sequence[Item], overlay: Overlay) -> list[Item]:
    """Returns items with those labels fixed whose image can be told by its name alone, before any file is read.

    Raises:
        DataError: A fix can be for no image, or names a label that no image has.
    """
    names = {item.id for item in items}
    # What is not there by its name may be by its bytes, which are not known yet.
    fixes = tuple(fix for fix in overlay.fixes if fix.id in names or not fix.sha256)
    _check_labels(overlay, (item.label for item in items))
    return relabel(items, [None] * len(items), Overlay(overlay.path, overlay.digest, fixes))


def summarise(overlay: Overlay | None, manifest: Manifest) -> Relabelling | None:
    """Returns what an overlay did to a manifest; None without one."""
    if overlay is None:
        return None
    pairs = zip(manifest.column("source_label"), manifest.column("label"), strict=True)
    moves = Counter((old, new) for old, new in pairs if old != new)
    ranked = dict(sorted(moves.items(), key=lambda entry: (-entry[1], entry[0])))
    return Relabelling(overlay.path, overlay.digest, len(overlay.fixes), sum(moves.values()), ranked)


def _check_labels(overlay: Overlay, labels: Iterable[str]) -> None:
    known = set(labels)
    for fix in overlay.fixes:
        if fix.label not in known:
            what = f"fixes {shown(overlay.path)}: {shown(fix.id)} is to be {fix.label!r}, which is no class here"
            raise DataError(f"{what}; {nearest(fix.label, known)}")


def _unknown(overlay: Overlay, lost: Sequence[Fix], known: Mapping[str, int]) -> DataError:
    first = lost[0]
    reason = "holds another image than the fix was made for" if first.id in known else "is no image of this source"
    more = f" ({len(lost) - 1} more like it)" if len(lost) > 1 else ""
    return DataError(f"fixes {shown(overlay.path)}: {shown(first.id)} {reason}{more}; take its line out")


def _contradiction(name: str, first: str, second: str) -> DataError:
    return DataError(f"fixes say both {first!r} and {second!r} of {shown(name)}; keep one")
