"""A shelf: rows of one shape and type on disk, found by key, in files that only ever grow at their end.

A shelf is a folder of segments. A segment is two files: `<n>.rows`, the bare values one row behind the other, and
`<n>.index`, a block for each chunk of rows that was committed. A chunk's rows reach the disk before its block is
written, and a block that is not whole does not count: what a killed process leaves behind is bytes that nobody reads.
One process at a time writes to a shelf; any number read meanwhile.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import numpy.typing as npt

#: What a row is found by; 128 bits of a SHA-256.
KEY = np.dtype("S16")

_ENTRY = np.dtype([("key", KEY), ("sum", "<u4")])  # `sum` is the CRC-32 of the row's bytes
_BLOCK = struct.Struct("<4sIII")  # a mark, the number of its first row, how many rows, the CRC-32 of their entries
_MARK = b"ROWS"

#: Bytes that a row takes at most beside its own: its part of the index, were it a chunk alone.
ROW_OVERHEAD = _ENTRY.itemsize + _BLOCK.size

#: Bytes after which a segment is left alone and the next one begun: what is deleted at once when room is needed.
#: A map holds a file descriptor, of which a process may have a thousand.
SEGMENT_BYTES = 2**30

#: Mapped bytes that are read before their pages are given back: they stay in the system's cache, but a map of
#: gigabytes would otherwise count as this process' memory.
_RESIDENT_BYTES = 128 * 2**20

Keys = npt.NDArray[np.bytes_]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Segment:
    """One segment as it was when it was opened.

    Attributes:
        index: Its index file; the time of its last change says when it was last used.
        entries: `(n,)`, key and checksum of each row.
        rows: `(n, *shape)`, mapped from the file, not read.
        memory: The map under `rows`, None where there is no row.
        index_bytes: How much of the index is whole.
        damaged: Whether more follows than a process could leave that was killed while it wrote.
    """

    index: Path
    entries: np.ndarray
    rows: np.ndarray
    memory: mmap.mmap | None
    index_bytes: int
    damaged: bool


class Shelf:
    """Rows of one shape and type in a folder.

    Args:
        folder: Made when the first row is written.
        shape: Of a row.
        dtype: "float32" or "float16".
        lock: A file outside the folder, which may be deleted whole.
    """

    def __init__(self, folder: Path, shape: Sequence[int], dtype: str, lock: Path) -> None:
        self.folder, self.shape, self.dtype = folder, tuple(shape), np.dtype(dtype)
        self._lock = lock

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.shape) * self.dtype.itemsize

    def size_of(self, count: int) -> int:
        """Returns the bytes that so many more rows take at most, their part of the index included."""
        return count * (self.row_bytes + ROW_OVERHEAD)

    def open(self) -> Rows:
        """Returns the rows that are committed now."""
        segments = (self._open_segment(index) for index in self._indices())
        return Rows([segment for segment in segments if segment is not None], self.shape, self.dtype)

    @contextmanager
    def filling(self, on_wait: Callable[[], None] = lambda: None) -> Iterator[Writer]:
        """Yields the shelf's writer once no other process has it; `on_wait` is called if one does."""
        self._lock.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self._lock)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            on_wait()
            lock.acquire()
        try:
            with contextlib.closing(Writer(self)) as writer:
                yield writer
        finally:
            lock.release()

    def last_segment(self) -> Segment | None:
        """Returns the segment that was begun last, None where it cannot be opened."""
        indices = self._indices()
        return self._open_segment(indices[-1]) if indices else None

    def next_index(self) -> Path:
        """Returns the index file of the segment to begin."""
        indices = self._indices()
        return self.folder / f"{int(indices[-1].stem) + 1 if indices else 0:08d}.index"

    def _indices(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*.index") if path.stem.isdecimal())

    def _open_segment(self, index: Path) -> Segment | None:
        try:
            with index.with_suffix(".rows").open("rb") as file:
                whole = os.fstat(file.fileno()).st_size // self.row_bytes
                entries, index_bytes, damaged = _read_entries(index.read_bytes(), whole)
                count = len(entries)
                memory = mmap.mmap(file.fileno(), count * self.row_bytes, access=mmap.ACCESS_READ) if count else None
        except FileNotFoundError:  # deleted by another process to make room
            return None
        flat = np.frombuffer(memory if memory is not None else b"", self.dtype)
        return Segment(index, entries, flat.reshape(count, *self.shape), memory, index_bytes, damaged)


def _read_entries(contents: bytes, whole_rows: int) -> tuple[np.ndarray, int, bool]:
    """Returns the entries of the blocks that are whole, where the last of these ends, and whether damage follows."""
    found, at, rows, damaged = [], 0, 0, False
    while at + _BLOCK.size <= len(contents):
        mark, first, count, checksum = _BLOCK.unpack_from(contents, at)
        end = at + _BLOCK.size + count * _ENTRY.itemsize
        payload = contents[at + _BLOCK.size : end]
        sound = mark == _MARK and first == rows and end <= len(contents) and zlib.crc32(payload) == checksum
        if not sound or rows + count > whole_rows:
            damaged = end <= len(contents) or mark != _MARK  # a block that was torn is the last, and too short
            break
        found.append(np.frombuffer(payload, _ENTRY))
        at, rows = end, rows + count
    return np.concatenate(found) if found else np.empty(0, _ENTRY), at, damaged


class Writer:
    """Appends to a shelf; held by one process at a time, through `Shelf.filling`."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._files: tuple[int, int] | None = None
        self._count = self._index_bytes = 0

    def commit(self, keys: Keys, rows: np.ndarray) -> None:
        """Adds one chunk, all of it or, when the process dies on the way, nothing."""
        rows = np.ascontiguousarray(rows, self._shelf.dtype)
        if len(keys) != len(rows) or rows.shape[1:] != self._shelf.shape:
            raise ValueError(f"{len(keys)} keys for rows of {rows.shape}, on a shelf of {self._shelf.shape}")
        data, index = self._open()
        entries = np.empty(len(keys), _ENTRY)
        entries["key"], entries["sum"] = keys, [zlib.crc32(row.data) for row in rows]
        payload = entries.tobytes()
        block = _BLOCK.pack(_MARK, self._count, len(keys), zlib.crc32(payload)) + payload
        # The rows must be on the disk before the index speaks of them, or a power failure could leave it lying.
        _write_at(data, rows.data.cast("B"), self._count * self._shelf.row_bytes)
        _flush(data)
        _write_at(index, memoryview(block), self._index_bytes)
        _flush(index)
        self._count, self._index_bytes = self._count + len(keys), self._index_bytes + len(block)
        if self._count * self._shelf.row_bytes >= SEGMENT_BYTES:
            self.close()

    def close(self) -> None:
        """Closes the segment's files; the next commit opens one again."""
        for file in self._files or ():
            os.close(file)
        self._files = None

    def _open(self) -> tuple[int, int]:
        """Returns the files of the segment to append to, cut back to what was committed."""
        if self._files is None:
            self._shelf.folder.mkdir(parents=True, exist_ok=True)
            last = self._shelf.last_segment()
            # After damage nothing is cut off: other processes may have mapped what was sound when they opened it.
            if last is None or last.damaged or len(last.entries) * self._shelf.row_bytes >= SEGMENT_BYTES:
                path, self._count, self._index_bytes = self._shelf.next_index(), 0, 0
            else:
                path, self._count, self._index_bytes = last.index, len(last.entries), last.index_bytes
            self._files = _open_at(path.with_suffix(".rows")), _open_at(path)
            os.ftruncate(self._files[1], self._index_bytes)
            os.ftruncate(self._files[0], self._count * self._shelf.row_bytes)
        return self._files


#: To the disk; macOS has no call for the data alone.
_flush = getattr(os, "fdatasync", os.fsync)


def _open_at(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)


def _write_at(file: int, contents: memoryview, offset: int) -> None:
    os.lseek(file, offset, os.SEEK_SET)
    while contents:
        contents = contents[os.write(file, contents) :]  # a full disk first writes less than it was given


class Rows:
    """What a shelf held when it was opened; it stays readable when its files are deleted.

    A place is a row's number over all segments.
    """

    def __init__(self, segments: Sequence[Segment], shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._segments, self.shape, self.row_bytes = segments, shape, math.prod(shape) * dtype.itemsize
        self._first = np.cumsum([0, *(len(segment.entries) for segment in segments)])
        entries = np.concatenate([segment.entries for segment in segments]) if segments else np.empty(0, _ENTRY)
        self._keys, self._sums = np.ascontiguousarray(entries["key"]), entries["sum"]
        self._order = np.argsort(self._keys, kind="stable")
        self._sorted = self._keys[self._order]
        self._resident = 0

    def __len__(self) -> int:
        """Returns the number of rows."""
        return len(self._keys)

    def find(self, keys: Keys) -> Places:
        """Returns the place of each key, -1 where there is no row; of rows with one key the last that was written."""
        if not len(self):
            return np.full(keys.shape, -1, np.int64)
        near = np.maximum(np.searchsorted(self._sorted, keys, side="right") - 1, 0)
        return np.where(self._sorted[near] == keys, self._order[near], -1)

    def find_intact(self, keys: Keys, known: npt.NDArray[np.bool_] | None = None) -> Places:
        """Returns as `find` does, and -1 also for a row whose bytes are not what was written.

        Those that are `known` to be sound are not looked at again.
        """
        places = self.find(keys)
        doubtful = places if known is None else np.where(known, -1, places)
        for segment, rows, where in self._by_segment(doubtful):
            for row, at in zip(rows, np.flatnonzero(where), strict=True):
                if zlib.crc32(segment.rows[row].data) != self._sums[places.flat[at]]:
                    places.flat[at] = -1
                self._note_read(segment.rows[row].nbytes)
        return places

    def take(self, places: Places) -> np.ndarray:
        """Returns the rows at some places, `(*places.shape, *shape)` float32; `KeyError` where one of them is -1."""
        if places.size and places.min() < 0:
            raise KeyError("a row that is not on the shelf")
        taken = np.empty((places.size, *self.shape), np.float32)
        for segment, rows, where in self._by_segment(places):
            taken[where] = segment.rows[rows]
        self._note_read(taken.nbytes)
        return taken.reshape(*places.shape, *self.shape)

    def files(self, places: Places) -> set[Path]:
        """Returns the index files of the segments that hold some places."""
        return {segment.index for segment, _, _ in self._by_segment(places)}

    def _by_segment(self, places: Places) -> Iterable[tuple[Segment, Places, npt.NDArray[np.bool_]]]:
        """Yields each segment that is asked for, the rows in it, and for which of the (flattened) places they are."""
        flat = places.reshape(-1)
        numbers = np.searchsorted(self._first, flat, side="right") - 1
        for number in np.unique(numbers[flat >= 0]):
            where = (numbers == number) & (flat >= 0)
            yield self._segments[number], flat[where] - self._first[number], where

    def _note_read(self, size: int) -> None:
        self._resident += size
        if self._resident < _RESIDENT_BYTES or not hasattr(mmap, "MADV_DONTNEED"):
            return
        self._resident = 0
        for segment in self._segments:
            if segment.memory is not None:
                segment.memory.madvise(mmap.MADV_DONTNEED)
