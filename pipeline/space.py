"""Room on a disk: how much there is, and one line for whoever has none left."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError, SpaceError

_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)

#: How libraries say it that do not hand on the system's number: TensorFlow, HDF5, SQLite.
_WORDS = ("no space left on device", "file too large", "disk quota exceeded", "database or disk is full")


def is_full(error: BaseException) -> bool:
    """Returns whether an error, or one that led to it, is of a full disk, a used up quota or a limit of file sizes."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL:
            return True
        if any(words in str(seen).lower() for words in _WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


@contextmanager
def writing(path: Path, needed: int | None = None, *, draft: Path | None = None) -> Iterator[None]:
    """Yields for the block that writes `path`, and turns what a full disk raises into one line.

    Of blocks within each other the outermost that says what is needed has the word.

    Args:
        path: What is written, as the reader knows it.
        needed: Bytes that it takes; what `draft` has come to, and more, where nobody knows.
        draft: Where it is written first.

    Raises:
        SpaceError: The disk is full, or a quota or the limit of file sizes is reached.
    """
    try:
        yield
    except Exception as error:
        narrower = isinstance(error, SpaceError) and needed is None and draft is None
        if narrower or not is_full(error):
            raise
        reached = size_on_disk(draft) if draft else 0
        takes = f"takes {in_words(needed)}" if needed is not None else f"takes more than {in_words(reached)}"
        # What the draft holds is given back with it.
        raise SpaceError(f"no space for {path}: it {takes}, {_limit(path, reached)}; make space") from error


def _limit(path: Path, returned: int) -> str:
    """Returns what there is for a file, in words: of the disk or, where that is less, of the limit of file sizes."""
    free, most = free_bytes(path) + returned, largest_file()
    if most is not None and most < free:
        return f"and a file may have {in_words(most)} (ulimit -f)"
    return f"and {in_words(free)} are free there"


def free_bytes(path: Path) -> int:
    """Returns the bytes that can be written on the disk where `path` is or would be."""
    return shutil.disk_usage(existing(path)).free


def largest_file() -> int | None:
    """Returns the bytes that a file of this process may have, None where there is no limit."""
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return None if most == resource.RLIM_INFINITY else most


def existing(path: Path) -> Path:
    """Returns a path, or the nearest folder above it that is there, as far as this user may see."""
    whole = path.absolute()
    return next(place for place in (whole, *whole.parents) if os.path.exists(place))


def check_writable(path: Path) -> None:
    """Looks whether a file or a folder can be written, or made; nothing is.

    Raises:
        PipelineError: It cannot be.
    """
    place = existing(path)
    if place.is_dir():
        wrong = "" if os.access(place, os.W_OK | os.X_OK) else _why_not(place)
    elif place == path.absolute():
        wrong = "" if os.access(place, os.W_OK) else _why_not(place)
    else:
        wrong = "a file is where a folder is wanted; move it away"
    if wrong:
        raise PipelineError(f"{path} cannot be written: {place}: {wrong}")


def _why_not(place: Path) -> str:
    if sys.platform != "win32" and os.statvfs(place).f_flag & os.ST_RDONLY:
        return "the file system is read-only; work in a folder on another one"
    return "no permission; change its owner or its mode, or work in a folder of your own"


@dataclass(frozen=True)
class Need:
    """What will be written, the place, and how many bytes it takes."""

    what: str
    path: Path
    size: int


def check_room(needs: Iterable[Need]) -> None:
    """Looks whether there is room for all needs together, on each of the disks that they are on.

    Raises:
        SpaceError: There is not; the message lists what was to be written there.
    """
    for disk in by_disk(needs):
        total, free = sum(need.size for need in disk), free_bytes(disk[0].path)
        if total > free:
            parts = ", ".join(f"{in_words(need.size)} of {need.what} in {need.path}" for need in disk)
            raise SpaceError(
                f"too little space: it takes {in_words(total)} ({parts}), and {in_words(free)} are free there; "
                "make space"
            )


def by_disk(needs: Iterable[Need]) -> list[list[Need]]:
    """Returns needs by the disk that they are on."""
    disks: dict[int, list[Need]] = {}
    for need in needs:
        disks.setdefault(existing(need.path).stat().st_dev, []).append(need)
    return list(disks.values())


def size_on_disk(path: Path) -> int:
    """Returns the bytes of a file, or of all files in a folder; 0 where there is none."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
    return path.stat().st_size if path.exists() else 0


def in_words(size: float) -> str:
    """Returns a number of bytes for people.

    >>> in_words(3.2e9), in_words(5e6), in_words(1500), in_words(12)
    ('3.0 GiB', '4.8 MiB', '1.5 KiB', '12 bytes')
    """
    for unit, of in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= of:
            return f"{size / of:,.1f} {unit}"
    return f"{size:.0f} bytes"
