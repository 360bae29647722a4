"""Files that are whole or absent: atomic writes, digests and locks."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from pipeline.errors import PipelineError
from pipeline.space import writing


@contextmanager
def atomic_path(path: Path, needed: int | None = None) -> Iterator[Path]:
    """Yields a temporary path beside `path` that takes its place when the block ends without an error.

    The suffix is kept, since writers choose their format by it. What is written is a file or a folder; a folder
    replaces an earlier one. On an error nothing is left behind and an earlier `path` is untouched.

    Args:
        path: What is to be written.
        needed: Bytes that it takes, where that is known: for whoever must make space.

    Raises:
        SpaceError: The disk is full.
    """
    with writing(path, needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        # A folder of its own rather than a strange name: writers may add side files, and all of them vanish with it.
        workbench = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        draft = workbench / path.name
        with writing(path, needed, draft=draft):
            yield draft
            _put(draft, path, workbench / "previous")
    finally:
        shutil.rmtree(workbench, ignore_errors=True)


def _put(draft: Path, path: Path, aside: Path) -> None:
    if not (draft.is_dir() and path.is_dir()):
        os.replace(draft, path)
        return
    path.rename(aside)  # no system call puts a folder in the place of another
    try:
        os.replace(draft, path)
    except BaseException:
        aside.rename(path)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, contents: bytes) -> None:
    """Writes bytes atomically."""
    with atomic_path(path, len(contents)) as draft:
        draft.write_bytes(contents)


def write_json(path: Path, document: Any) -> None:
    """Writes a JSON document atomically; a NaN in it is a programmer's mistake and raises `ValueError`."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> None:
    """Writes rows as CSV with a line of column names, atomically; bytes of names that are no UTF-8 are escaped."""
    with atomic_path(path) as draft, draft.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def read_json(path: Path) -> Any:
    """Returns the JSON document in `path`.

    Raises:
        PipelineError: The file cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PipelineError(f"{path} cannot be read as JSON ({error}); delete it or make it anew") from error


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_digest(*parts: str) -> str:
    """Returns the SHA-256 of the parts in their order, in hex; where one part ends and the next begins counts."""
    return hashlib.sha256("\x00".join(parts).encode("utf-8", "surrogateescape")).hexdigest()


def json_digest(document: Any) -> str:
    """Returns the SHA-256 of a JSON document, in hex; the order of its keys does not count."""
    return text_digest(json.dumps(document, sort_keys=True, ensure_ascii=False))


def keyed_seed(*parts: object) -> int:
    """Returns a seed in [0, 2**63) that depends on the parts alone: the same on every machine and in every process."""
    return int(text_digest(*(str(part) for part in parts))[:16], 16) >> 1


@contextmanager
def lock(path: Path, *, timeout: float = 60.0) -> Iterator[None]:
    """Holds an exclusive lock between processes for the block.

    Raises:
        PipelineError: Another process kept the lock for `timeout` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(path, timeout=timeout):
            yield
    except filelock.Timeout as error:
        raise PipelineError(
            f"{path} is held by another process for over {timeout:.0f} s; wait for it to end and try again"
        ) from error
