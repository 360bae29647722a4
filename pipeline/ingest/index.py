"""What was seen of a source's files at an earlier ingest, so that unchanged ones need not be read again.

A file is unchanged when its size, times and inode are; a file that was moved or touched is read, and recognised by its
bytes. Times can lie where a file changed twice within one tick of the clock, so what was changed shortly before it was
seen is not believed the next time (as Git does it: racy-git.txt in its documentation).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import PIL
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.files import atomic_path, text_digest
from pipeline.ingest.look import Look, is_kept

#: Raise it when a look finds something else in the same bytes.
REVISION = "1"

#: Coarser than the clock of any file system in use (FAT counts in 2 s).
_TICK = 2_000_000_000

_STAMP = [("path", pa.string()), *((f"stat_{name}", pa.int64()) for name in ("size", "mtime", "ctime", "inode"))]
_LOOK = [
    ("sha256", pa.string()), ("pixels", pa.string()), ("width", pa.int32()), ("height", pa.int32()),
    ("format", pa.string()), ("mode", pa.string()), ("size", pa.int64()), ("orientation", pa.int8()),
    ("constant", pa.bool_()), ("transcoded", pa.string()), ("stored", pa.string()), ("stored_size", pa.int64()),
    ("signature", pa.binary()),
]  # fmt: skip
#: Another decoder makes other pixels, another OpenCV other hashes.
_VERSION = f"{REVISION} pillow {PIL.__version__} opencv {cv2.__version__}"
_SCHEMA = pa.schema(_STAMP + _LOOK, metadata={"revision": _VERSION})
assert tuple(name for name, _ in _LOOK) == Look._fields


#: What the system says of a file without reading it: size, mtime and ctime in nanoseconds, inode.
Stamp = tuple[int, int, int, int]


def stamp_of(path: str) -> Stamp | None:
    """Returns a file's stamp, None where there is no file to read."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def all_settled(stamps: Sequence[Stamp | None], seen: int) -> bool:
    """Returns whether all files are there and were changed so long before `seen` that their stamps can be believed."""
    fresh = seen - _TICK
    return all(stamp is not None and stamp[1] < fresh and stamp[2] < fresh for stamp in stamps)


class Index:
    """The looks of an earlier ingest, found by path and stamp or by the digest of the bytes."""

    def __init__(self, rows: dict[str, tuple[Stamp, tuple[Any, ...]]]) -> None:
        """Takes, by path, the stamp and the fields of the look of each file."""
        self._rows = rows
        self._by_content: dict[str, Look] | None = None

    def __len__(self) -> int:
        """Returns the number of files that were readable."""
        return len(self._rows)

    def unchanged(self, paths: Iterable[str], stamps: Iterable[Stamp | None]) -> list[Look | None]:
        """Returns the look of each file whose stamp is what it was, None for the others."""
        # A loop without calls: it runs once an image, and is half of what an unchanged folder costs.
        rows, make, looks = self._rows, Look._make, list[Look | None]()
        for path, stamp in zip(paths, stamps, strict=True):
            found = rows.get(path)
            if found is None or found[0] != stamp:
                looks.append(None)
                continue
            look = make(found[1])
            looks.append(look if look.stored is None or is_kept(look) else None)
        return looks

    def same_bytes(self, sha256: str) -> Look | None:
        """Returns the look of any file that had these bytes."""
        if self._by_content is None:
            looks = (Look._make(fields) for _, fields in self._rows.values())
            self._by_content = {look.sha256: look for look in looks}
        found = self._by_content.get(sha256)
        return found if found and is_kept(found) else None


def index_path(folder: Path, origin: str) -> Path:
    """Returns where the index of a source is kept."""
    return folder / f"{text_digest(origin)[:16]}.parquet"


def load_index(path: Path) -> Index:
    """Returns the index in a file; an empty one where there is none, or it is damaged or of another version."""
    try:
        # Not `read_table`, which loads the whole of pyarrow's data set machinery first.
        with pq.ParquetFile(path) as file:
            table = file.read()
        if not table.schema.equals(_SCHEMA, check_metadata=True):
            return Index({})
        columns = [table.column(name).to_pylist() for name in _SCHEMA.names]
    except (OSError, pa.ArrowException, ValueError):
        return Index({})
    stamps = zip(*columns[1 : len(_STAMP)], strict=True)
    looks = zip(*columns[len(_STAMP) :], strict=True)
    return Index(dict(zip(columns[0], zip(stamps, looks, strict=True), strict=True)))


def save_index(path: Path, rows: Sequence[tuple[str, Stamp, Look]], seen: int) -> None:
    """Writes the index of a source's readable files, atomically.

    Args:
        path: Of the index.
        rows: Path, stamp and look of each file, the stamp taken before it was read.
        seen: When the first stamp was taken, in nanoseconds since the epoch.
    """
    fresh = seen - _TICK
    believed = (
        (file, size, mtime if max(mtime, ctime) < fresh else -1, ctime, inode, *look)
        for file, (size, mtime, ctime, inode), look in rows
    )
    columns = list(zip(*believed, strict=True)) or [()] * len(_SCHEMA)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
    with atomic_path(path) as draft:
        pq.write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA), draft, compression="lz4")
