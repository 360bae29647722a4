"""What ingest found in a source, kept for as long as no file, no label and no setting is another.

The index knows single files; this knows the whole answer, so that a million unchanged files cost no more than to ask
the system for their stamps.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import cv2
import PIL
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import IngestConfig
from pipeline.files import atomic_path
from pipeline.ingest import index
from pipeline.ingest.changes import COMPARED
from pipeline.ingest.manifest import SCHEMA, Manifest
from pipeline.ingest.result import DuplicatePair, IngestResult
from pipeline.ingest.scan import Listing

#: Raise it when ingest answers otherwise to the same files.
REVISION = 1


class Answers:
    """The answer to one listing under one configuration.

    Args:
        folder: Where answers are kept, one a source.
        listing: What the source lists now.
        config: The section `ingest`.
        overlay: Digest of the corrected labels that it names, None where it names none.
    """

    def __init__(self, folder: Path, listing: Listing, config: IngestConfig, overlay: str | None = None) -> None:
        self._path = index.index_path(folder, listing.origin).with_suffix(".answer.parquet")
        # A file that cannot be read may be readable next time without a change of its stamp; the clock may lie too.
        self._certain = config.rescan == "stat" and index.all_settled(listing.stamps, listing.seen)
        if self._certain:
            versions = (REVISION, index.REVISION, PIL.__version__, cv2.__version__)
            items = [tuple(item) for item in listing.items]
            asked = (versions, config.model_dump_json(), overlay, listing.name, listing.origin, items, listing.stamps)
            self._key = hashlib.sha256(repr(asked).encode("utf-8", "surrogateescape")).hexdigest()

    def recall(self, before: Manifest | None) -> IngestResult | None:
        """Returns the earlier answer, None where there is none that must be the same today.

        Args:
            before: The manifest that settles sides, None where none does.
        """
        if not self._certain:
            return None
        try:
            with pq.ParquetFile(self._path) as file:
                table = file.read()
            rest = json.loads(table.schema.metadata[b"rest"])
            manifest = Manifest(table.replace_schema_metadata(None).cast(SCHEMA))
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
            return None
        if rest["key"] != self._key or any(_size_of(path) != size for path, size in rest["stored"]):
            return None
        # Sides that were settled then by an earlier manifest hold only where the same sides are settled now.
        if before is None and rest["settled"]:
            return None
        if before is not None and not before.table.select(COMPARED).equals(manifest.table.select(COMPARED)):
            return None
        duplicates = tuple(DuplicatePair(**pair) for pair in rest["duplicates"])
        return IngestResult(rest["name"], rest["source"], manifest, (), duplicates, None)

    def remember(self, result: IngestResult, *, settled: bool) -> None:
        """Keeps an answer in which nothing was left out; `settled`: an earlier manifest had a say in the sides."""
        if not self._certain or result.rejected:
            return
        table = result.manifest.table
        stored = table.filter(pc.is_valid(table.column("transcoded"))).column("path").to_pylist()
        rest = {
            "key": self._key, "settled": settled, "name": result.name, "source": result.source,
            "duplicates": [dataclasses.asdict(pair) for pair in result.duplicates],
            "stored": [(path, _size_of(path)) for path in stored],
        }  # fmt: skip
        with atomic_path(self._path) as draft:
            pq.write_table(table.replace_schema_metadata({"rest": json.dumps(rest)}), draft, compression="lz4")


def _size_of(path: str) -> int | None:
    try:
        return os.path.getsize(path)
    except OSError:
        return None
