"""The manifest: one row an image that is in the data set, with its label and its split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DataError
from pipeline.files import atomic_path, text_digest

SPLITS = ("train", "validation", "test")

SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # path below the source, with "/" on every system
        ("path", pa.string()),  # where the bytes are that are trained on
        ("original", pa.string()),  # the file that the source named; another one if it had to be transcoded
        ("label", pa.string()),
        ("source_label", pa.string()),  # what the source says; another one where `ingest.relabel` corrected it
        ("split", pa.string()),
        ("sha256", pa.string()),  # of the original's bytes
        ("pixels", pa.string()),  # SHA-256 of the decoded pixels: what an image is known by from one ingest to the next
        ("cluster", pa.string()),  # images that must share a split share this
        ("group", pa.string()),  # what the source says belongs together, null where it says nothing
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
        ("mode", pa.string()),
        ("bytes", pa.int64()),
        ("orientation", pa.int8()),  # how the file says to hold it (EXIF), 1: as it is stored
        ("transcoded", pa.string()),  # why it was stored anew as PNG, null where it was not
    ]
)


@dataclass(frozen=True)
class Manifest:
    """A table of images in the columns of `SCHEMA`, in the order of their ids."""

    table: pa.Table

    def __len__(self) -> int:
        """Returns the number of images."""
        return int(self.table.num_rows)

    def column(self, name: str) -> list[str]:
        """Returns one column as a list."""
        values: list[str] = self.table.column(name).to_pylist()
        return values

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The labels, sorted; a class id is a label's place in it."""
        return tuple(sorted(set(self.column("label"))))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over content, labels and splits: moving or renaming the files does not change it."""
        rows = zip(self.column("sha256"), self.column("label"), self.column("split"), strict=True)
        return text_digest(*("\x1f".join(row) for row in sorted(rows)))

    def split(self, name: str) -> Manifest:
        """Returns the rows of one split."""
        return Manifest(self.table.filter(pa.compute.field("split") == name))

    def counts(self) -> dict[str, dict[str, int]]:
        """Returns images per split and class: `{split: {label: n}}`, zeros included."""
        seen = Counter(zip(self.column("split"), self.column("label"), strict=True))
        return {split: {label: seen[split, label] for label in self.classes} for split in SPLITS}


def build_manifest(rows: Sequence[dict[str, object]]) -> Manifest:
    """Returns the manifest of rows given as dicts with the keys of `SCHEMA`; without `source_label` it is the label."""
    whole = [{"source_label": row["label"], **row} for row in sorted(rows, key=lambda row: str(row["id"]))]
    return Manifest(pa.Table.from_pylist(whole, schema=SCHEMA))


def save_manifest(manifest: Manifest, path: Path) -> None:
    """Writes the manifest as Parquet, atomically."""
    with atomic_path(path) as draft:
        pq.write_table(manifest.table, draft)


def load_manifest(path: Path) -> Manifest:
    """Returns the manifest that `save_manifest` wrote.

    Raises:
        DataError: The file is damaged or holds other columns.
    """
    try:
        table = pq.read_table(path)
        if "source_label" not in table.column_names:  # of a run from before labels could be corrected
            table = table.append_column("source_label", table.column("label"))
        return Manifest(table.select(SCHEMA.names).cast(SCHEMA))
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise DataError(f"{path} is no manifest of this version; run the stage ingest again") from error
