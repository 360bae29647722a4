"""Encoded images that have no file of their own, kept once each under the digest of their bytes."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import secrets
from pathlib import Path

from pipeline.errors import DataError


class ContentStore:
    """A folder of files named by their contents, for any number of processes at once.

    A file takes its final name only when it is whole, so a killed process leaves at most a hidden `.part` file. Nothing
    is flushed to the disk one by one, which would cost a hundred times the write: what a power failure cuts short has
    the wrong size and is written again.

    Attributes:
        root: The folder; made at the first `put`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._top = os.path.abspath(root)
        # Drawn at random, since processes of two machines may share the folder and a process id.
        self._token = secrets.token_hex(8)
        self._numbers = itertools.count()

    def put(self, contents: bytes, suffix: str) -> Path:
        """Returns the absolute path `root/<first two hex>/<sha256><suffix>`, which holds `contents` from now on.

        An entry of the right size is not written again.

        Raises:
            DataError: The folder cannot be written to.
        """
        digest = hashlib.sha256(contents).hexdigest()
        folder = f"{self._top}/{digest[:2]}"
        path = f"{folder}/{digest}{suffix}"
        try:
            if not _has_size(path, len(contents)):
                self._write(contents, folder, path)
        except OSError as error:
            raise DataError(
                f"{folder} cannot be written ({error.strerror}); make room or give yourself the right to write there"
            ) from error
        return Path(path)

    def _write(self, contents: bytes, folder: str, path: str) -> None:
        # Strings and plain system calls: pathlib and tempfile would take half of the time of a small image.
        draft = f"{folder}/.{self._token}-{next(self._numbers)}.part"
        try:
            file = _create(draft)
        except FileNotFoundError:
            os.makedirs(folder, exist_ok=True)
            file = _create(draft)
        try:
            with open(file, "wb", buffering=0) as stream:
                _write_all(stream.fileno(), contents)
            os.replace(draft, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(draft)
            raise


def _create(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)


def _write_all(file: int, contents: bytes) -> None:
    left = memoryview(contents)
    while left:
        left = left[os.write(file, left) :]  # a full disk first writes less than it was given


def _has_size(path: str, size: int) -> bool:
    try:
        return os.stat(path).st_size == size
    except FileNotFoundError:
        return False
