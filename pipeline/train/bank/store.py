"""All shelves of the feature bank: one folder, one budget, the least recently used goes first."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from pipeline.errors import PipelineError
from pipeline.files import json_digest, read_json, write_json
from pipeline.space import free_bytes, in_words
from pipeline.train.bank.shelf import Shelf

#: Raise it when rows of one description are stored in another way.
FORMAT = 1

#: Left free on the disk whatever the budget says: others write there too.
RESERVE_BYTES = 2**30

GIB = 2**30


@dataclass(frozen=True)
class ShelfEntry:
    """What `pipeline bank` lists of a shelf.

    Attributes:
        name: Its folder.
        description: All that its rows depend on beside their images.
        rows: How many it holds.
        size: Bytes on disk.
        used: When a run last read from it or wrote to it, in seconds since the epoch.
    """

    name: str
    description: Mapping[str, Any]
    rows: int
    size: int
    used: float


class FeatureStore:
    """Shelves in a folder.

    Args:
        root: Made when the first row is written.
        budget: Bytes that all shelves together may take.
    """

    def __init__(self, root: Path, budget: int = 20 * GIB) -> None:
        self.root, self.budget = root, budget
        self._in_use: set[Path] = set()  # index files of segments that this run reads

    def shelf(self, description: Mapping[str, Any]) -> Shelf:
        """Returns the shelf of rows that depend on `description`, which names their "shape" and "dtype" too.

        Its "title" is for people, and does not count.
        """
        counted = {name: value for name, value in description.items() if name != "title"}
        return self._shelf(json_digest({"format": FORMAT, **counted})[:24], description)

    def _shelf(self, name: str, description: Mapping[str, Any]) -> Shelf:
        return Shelf(self.root / name, description["shape"], description["dtype"], self._lock(name))

    def _lock(self, name: str) -> Path:
        # Beside the shelves: a lock inside a folder that is deleted would be two locks at once.
        return self.root / ".locks" / f"{name}.lock"

    def describe(self, shelf: Shelf, description: Mapping[str, Any]) -> None:
        """Writes down what a shelf's rows depend on, for people; the caller holds the shelf."""
        path = shelf.folder / "shelf.json"
        if not path.is_file():
            write_json(path, {"format": FORMAT, **description})

    def used(self) -> int:
        """Returns the bytes that all shelves take."""
        return sum(_size(index) for index in self._indices())

    def use(self, indices: Iterable[Path]) -> None:
        """Notes that segments are used now, and keeps this run from deleting them."""
        indices = set(indices)
        self._in_use |= indices
        for index in indices:
            with contextlib.suppress(OSError):  # deleted meanwhile, or of another user
                os.utime(index)

    def missing_room(self, needed: int, there: int, kept: Iterable[Path]) -> str | None:
        """Returns why `needed` bytes more cannot be had, None where they can.

        Args:
            needed: Bytes to be written.
            there: Bytes of the rows that are wanted with them and need not be written.
            kept: Index files of the segments of these, which must not be deleted.
        """
        if not needed:
            return None
        kept = set(kept)
        wanted = needed + there + sum(map(_size, self._in_use - kept))
        if wanted > self.budget:
            return (
                f"{in_words(wanted)} of features would not fit the budget of {in_words(self.budget)} "
                "(train.bank.budget_gb)"
            )
        protected = sum(map(_size, kept | self._in_use))
        free = self._free() + self.used() - protected
        if needed > free:
            return f"{in_words(needed)} of features would not fit the disk, where {in_words(max(free, 0))} can be had"
        return None

    def make_room(self, needed: int, kept: Iterable[Path], held: Iterable[Shelf] = ()) -> str | None:
        """Deletes the least recently used segments until `needed` bytes more are within budget and disk.

        Args:
            needed: Bytes to be written.
            kept: Index files of segments that stay. So do those in use, and those of shelves that others are filling.
            held: The shelves that the caller is filling.

        Returns:
            Why there is not enough room all the same, None where there is.
        """
        own = {shelf.folder for shelf in held}
        for index in sorted(set(self._indices()) - set(kept) - self._in_use, key=_last_used):
            if self._spare() >= needed:
                break
            if index.parent in own:
                _delete(index)
                continue
            with contextlib.suppress(filelock.Timeout), filelock.FileLock(self._lock(index.parent.name), timeout=0):
                _delete(index)
                if not any(index.parent.glob("*.index")):
                    shutil.rmtree(index.parent)
        if self._spare() >= needed:
            return None
        return f"what is in use leaves no room for {in_words(needed)} of features (`pipeline bank clear` makes some)"

    def _spare(self) -> int:
        return min(self.budget - self.used(), self._free())

    def _free(self) -> int:
        return free_bytes(self.root) - RESERVE_BYTES

    def entries(self) -> list[ShelfEntry]:
        """Returns what there is, the most recently used first."""
        entries = []
        for folder in {index.parent for index in self._indices()}:
            try:
                description = read_json(folder / "shelf.json")
                rows = len(self._shelf(folder.name, description).open())
            except (PipelineError, KeyError, TypeError, ValueError, ArithmeticError):
                description, rows = {}, 0  # damaged: its place on the disk is still worth knowing
            indices = list(folder.glob("*.index"))
            used = max((_last_used(index) for index in indices), default=0.0)
            entries.append(ShelfEntry(folder.name, description, rows, sum(map(_size, indices)), used))
        return sorted(entries, key=lambda entry: entry.used, reverse=True)

    def clear(self) -> tuple[int, list[str]]:
        """Deletes all shelves that no process is filling; returns the bytes deleted and the shelves that stayed."""
        deleted, busy = 0, []
        for folder in sorted(path for path in self.root.glob("*") if path.is_dir() and path.name != ".locks"):
            try:
                with filelock.FileLock(self._lock(folder.name), timeout=0):
                    deleted += sum(file.stat().st_size for file in folder.iterdir())
                    shutil.rmtree(folder)
            except filelock.Timeout:
                busy.append(folder.name)
        return deleted, busy

    def _indices(self) -> list[Path]:
        return list(self.root.glob("*/*.index"))


def _last_used(index: Path) -> float:
    try:
        return index.stat().st_mtime
    except OSError:
        return 0.0


def _size(index: Path) -> int:
    size = 0
    for path in (index, index.with_suffix(".rows")):
        with contextlib.suppress(OSError):
            size += path.stat().st_size
    return size


def _delete(index: Path) -> None:
    for path in (index.with_suffix(".rows"), index):  # in this order: an index without rows is known to be one
        path.unlink(missing_ok=True)
