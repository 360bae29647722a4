"""Looks at every image once, before anything is trained: can it be read, what is in it, what is it like."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline.images.headers import SUFFIXES
from pipeline.ingest.index import Index, Stamp, load_index, save_index, stamp_of
from pipeline.ingest.look import Look, digest_of
from pipeline.ingest.sources.base import Item, Source
from pipeline.ingest.store import ContentStore
from pipeline.ingest.workers import look_at_all
from pipeline.progress import Bar, Progress


class Scanned(NamedTuple):
    """A readable image: where it came from and what is in it."""

    item: Item
    look: Look


class Rejected(NamedTuple):
    """An image that cannot be trained on, or should not be, and why."""

    item: Item
    reason: str


class Listing(NamedTuple):
    """What a source lists, and what the system says of the files without reading them.

    Attributes:
        name: The source's, short.
        origin: The source's, whole.
        items: Its images, ordered by id.
        stamps: Of each file; None where there is none to read.
        seen: When the first stamp was taken, in nanoseconds since the epoch.
    """

    name: str
    origin: str
    items: list[Item]
    stamps: list[Stamp | None]
    seen: int


def list_files(source: Source, progress: Progress) -> Listing:
    """Returns what a source lists, with the stamps of its files.

    Raises:
        DataError: The source cannot be used.
    """
    items, seen = source.items(progress), time.time_ns()
    return Listing(source.name, source.origin, items, [stamp_of(item.path) for item in items], seen)


def scan(
    listing: Listing, index_file: Path, store: ContentStore, rescan: Literal["stat", "content"], progress: Progress
) -> tuple[list[Scanned], list[Rejected]]:
    """Returns the readable images and the others, both in the order given.

    Args:
        listing: What the source lists.
        index_file: What was seen last time; read, and written anew.
        store: Where images are put that must be transcoded.
        rescan: "stat" believes size and times of a file that was seen before, "content" its bytes alone.
        progress: Told of every file.
    """
    items, index = listing.items, load_index(index_file)
    known: list[Look | None] = [None] * len(items)
    if rescan == "stat":
        known = index.unchanged([item.path for item in items], listing.stamps)
    waiting = [row for row, look in enumerate(known) if look is None]
    found: list[Look | str | None] = list(known)
    with progress.bar("ingest", len(items)) as bar:
        bar.advance(len(items) - len(waiting))
        looks = _look([items[row].path for row in waiting], index, store, bar)
        for row, look in zip(waiting, looks, strict=True):
            found[row] = look
    good: list[Scanned] = []
    bad: list[Rejected] = []
    for item, seen_of in zip(items, found, strict=True):
        if isinstance(seen_of, Look):
            good.append(Scanned(item, seen_of))
        else:
            bad.append(Rejected(item, str(seen_of)))
    if waiting or len(items) != len(index):
        _keep(index_file, listing, found)
    return good, bad


def _look(paths: Sequence[str], index: Index, store: ContentStore, bar: Bar) -> Iterator[Look | str]:
    """Yields what is in each file: known by its bytes where they have been seen before, else decoded."""
    known: list[Look | None] = [None] * len(paths)
    if len(index):
        with ThreadPoolExecutor(2) as threads:
            digests = list(threads.map(digest_of, paths))
        known = [_by_bytes(path, digest, index) for path, digest in zip(paths, digests, strict=True)]
    fresh = look_at_all([path for path, look in zip(paths, known, strict=True) if look is None], store)
    looked = (look for chunk in fresh for look in chunk)
    for look in known:
        yield look if look is not None else next(looked)
        bar.advance()


def _by_bytes(path: str, digest: str | None, index: Index) -> Look | None:
    look = index.same_bytes(digest) if digest else None
    promised = SUFFIXES.get(os.path.splitext(path)[1].lower())  # renamed, it may promise another format now
    return look if look and look.format == promised else None


def _keep(index_file: Path, listing: Listing, found: Sequence[Look | str | None]) -> None:
    rows = [
        (item.path, stamp, look)
        for item, stamp, look in zip(listing.items, listing.stamps, found, strict=True)
        if isinstance(look, Look) and stamp is not None
    ]
    save_index(index_file, rows, listing.seen)
