"""The files to be predicted, paths or URLs: one by one, in folders, by patterns, in lists; found as they are needed."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import DataError
from pipeline.export.urls import kind_of, match_urls, place_of, walk_url
from pipeline.images.headers import SUFFIXES

#: Stands for a list of paths on the standard input.
STDIN = Path("-")

#: Bytes of a list that are read at a time.
_CHUNK = 2**16


def find_images(paths: Sequence[Path | str], stdin: BinaryIO | None = None) -> tuple[Iterator[Path | str], int | None]:
    """Returns the images that are meant, in order, and their number, None where a list on `stdin` is part of them.

    The images are found while they are asked for, so a hundred thousand take no memory; the folders are walked once
    before, to count them.

    Args:
        paths: Images, folders, patterns such as `photos/**/*.jpg`, URLs of these as strings, or `-` for a list on
            `stdin`.
        stdin: The standard input, where it is named: a path a line, or paths separated by NULs as of `find -print0`.

    Raises:
        DataError: A path does not exist, a pattern matches nothing, no image is left, or a storage does not answer.
    """
    for path in paths:
        _require(path)
    total = None if STDIN in paths else sum(1 for _ in _walk_all(paths, stdin))
    images = _walk_all(paths, stdin)
    first = next(images, None)
    if first is None:
        raise DataError(f"no image files in {', '.join(map(str, paths))}; endings looked for: {', '.join(SUFFIXES)}")
    return chain([first], images), total


def _require(path: Path | str) -> None:
    if path == STDIN or (kind_of(path) if isinstance(path, str) else path.exists()):
        return
    if not glob.has_magic(str(path)):
        raise DataError(f"no file or folder {path}; name images, or folders that hold some")
    matches = match_urls(path) if isinstance(path, str) else glob.iglob(str(path), recursive=True)
    if next(matches, None) is None:
        raise DataError(f"nothing matches {path}; `**` stands for any folders, `*` for any part of a name")


def _walk_all(paths: Iterable[Path | str], stdin: BinaryIO | None) -> Iterator[Path | str]:
    for path in paths:
        if isinstance(path, str):
            yield from _walk_url(path)
        elif path == STDIN:
            yield from _walk_listed(read_names(stdin) if stdin else ())
        elif path.is_dir():
            yield from walk_folder(path)
        elif path.exists():
            yield path
        else:
            yield from _walk_pattern(str(path))


def _walk_url(url: str) -> Iterator[str]:
    kind = kind_of(url)
    if kind == "directory":
        yield from walk_url(url)
    elif kind:
        yield url
    else:
        yield from match_urls(url)


def _walk_listed(paths: Iterable[Path | str]) -> Iterator[Path | str]:
    """Yields the files of a list, those that do not exist too: they are reported with the bad ones.

    A URL in it is that of a file: to ask for every one whether it is a folder would take longer than to read it.
    """
    for path in paths:
        if isinstance(path, Path) and os.path.isdir(path):
            yield from walk_folder(path)
        else:
            yield path


def _walk_pattern(pattern: str) -> Iterator[Path]:
    # Sorted, since an interrupted job can only go on if the order is the same the next time.
    for name in sorted(glob.iglob(pattern, recursive=True)):
        if os.path.splitext(name)[1].lower() in SUFFIXES and os.path.isfile(name):
            yield Path(name)


def walk_folder(folder: Path) -> Iterator[Path]:
    """Yields the image files below a folder, sorted; nothing hidden, and links to folders are not followed."""
    with os.scandir(folder) as entries:
        # What is kept is small: an entry carries what the system said of it.
        found = sorted((entry.name, entry.is_dir(follow_symlinks=False), entry.is_file()) for entry in entries)
    for name, is_folder, is_file in found:
        if name.startswith("."):
            continue
        if is_folder:
            yield from walk_folder(folder / name)
        elif is_file and os.path.splitext(name)[1].lower() in SUFFIXES:
            yield folder / name


def read_names(stream: BinaryIO) -> Iterator[Path | str]:
    """Yields the paths and URLs of a list as they come in: one a line, or separated by NULs if its start has any."""
    start = b""
    while not (b"\0" in start or b"\n" in start):
        more = _read_some(stream)
        if not more:
            break
        start += more
    separator = b"\0" if b"\0" in start else b"\n"
    rest = start
    while True:
        *names, rest = rest.split(separator)
        yield from map(_place, filter(None, (_trim(name, separator) for name in names)))
        more = _read_some(stream)
        if not more:
            break
        rest += more
    if _trim(rest, separator):
        yield _place(_trim(rest, separator))


def _read_some(stream: BinaryIO) -> bytes:
    """Returns what has come in, at most `_CHUNK` bytes, without waiting for more; nothing at the end."""
    # Only buffered streams can say so; sys.stdin.buffer is one.
    some: bytes = getattr(stream, "read1", stream.read)(_CHUNK)
    return some


def _trim(name: bytes, separator: bytes) -> bytes:
    return name.rstrip(b"\r") if separator == b"\n" else name


def _place(name: bytes) -> Path | str:
    return place_of(os.fsdecode(name))
