"""Checkpoints of training: everything that the rest of it depends on, in one file that is whole or absent."""

from __future__ import annotations

import json
import os
import shutil
import time
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import PipelineError, one_line
from pipeline.files import atomic_path

#: Of a run's checkpoints, the newest and the one before.
LATEST, PREVIOUS = "latest.npz", "previous.npz"

#: A checkpoint that nobody asked for is written once that many times the last one's cost has gone by.
_PATIENCE = 20

_DOCUMENT = "document"

#: What an array takes beside its bytes: NumPy's header, and its two entries in the archive.
_MEMBER = 300


@dataclass(frozen=True)
class Checkpoint:
    """A moment of training.

    Attributes:
        document: What JSON can say of it: the phase, the position in it, the rows of the history so far.
        arrays: Variables by name.
    """

    document: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    def part(self, name: str) -> list[np.ndarray]:
        """Returns the arrays that `numbered` put under a name, in their order."""
        count = sum(key.startswith(f"{name}/") for key in self.arrays)
        return [self.arrays[f"{name}/{number}"] for number in range(count)]


def numbered(name: str, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Returns arrays under names made of one name and their places."""
    return {f"{name}/{number}": array for number, array in enumerate(arrays)}


class Checkpoints:
    """The checkpoints of one training: the newest, and the one before should that be damaged.

    Args:
        folder: Where they are; None keeps nothing.
        identity: What a checkpoint must have been made of to be gone on from: digests of recipe and data.
        every_steps: How often one is asked for; 0 leaves it to `due`.
    """

    def __init__(self, folder: Path | None = None, identity: Mapping[str, str] | None = None, every_steps: int = 0):
        self.folder, self.every_steps = folder, every_steps
        self._identity = dict(identity or {})
        self._saved_at, self._cost = time.monotonic(), 0.0

    def load(self) -> Checkpoint | None:
        """Returns the newest that is whole; None where there is none.

        Raises:
            PipelineError: It is of another recipe or of other data.
        """
        if self.folder is None:
            return None
        for leftover in self.folder.glob(f".{LATEST}.*"):  # of a process that was killed while it wrote
            shutil.rmtree(leftover, ignore_errors=True)
        for name in (LATEST, PREVIOUS):
            found = _read(self.folder / name)
            if found is not None:
                self._require_own(found)
                return found
        return None

    def _require_own(self, found: Checkpoint) -> None:
        other = [name for name, value in self._identity.items() if found.document["identity"].get(name) != value]
        if other:
            raise PipelineError(
                f"the checkpoint in {self.folder} was made with another {' and another '.join(other)}; delete that "
                "folder to train anew"
            )

    def clear(self) -> None:
        """Removes all of them: what they would be needed for is done."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def due(self) -> bool:
        """Returns whether enough time has gone by since the last one that another costs little of it."""
        return self.folder is not None and time.monotonic() - self._saved_at >= _PATIENCE * self._cost

    def save(self, checkpoint: Checkpoint) -> None:
        """Writes a checkpoint aside, reads it back, and only then lets it take the place of the newest.

        Raises:
            PipelineError: It could not be written; the earlier ones are as they were.
        """
        if self.folder is None:
            return
        began = time.monotonic()
        whole = Checkpoint({**checkpoint.document, "identity": self._identity}, checkpoint.arrays)
        latest = self.folder / LATEST
        try:
            with atomic_path(latest, _size(whole)) as draft:
                _write(draft, whole)
                if latest.exists():
                    os.replace(latest, self.folder / PREVIOUS)
            _sync_folder(self.folder)
        except OSError as error:
            raise PipelineError(
                f"no checkpoint could be written in {self.folder}: {error.strerror or one_line(error)}; see to that "
                "disk, then: pipeline run --resume"
            ) from error
        self._saved_at = time.monotonic()
        self._cost = self._saved_at - began


def _size(checkpoint: Checkpoint) -> int:
    """Returns the bytes of a checkpoint on the disk, but for some at its end."""
    return checkpoint_bytes(array.nbytes for array in checkpoint.arrays.values()) + len(json.dumps(checkpoint.document))


def checkpoint_bytes(arrays: Iterable[int]) -> int:
    """Returns the bytes of a checkpoint of arrays of these bytes, without its document."""
    return sum(size + _MEMBER for size in arrays)


def _write(path: Path, checkpoint: Checkpoint) -> None:
    document = np.frombuffer(json.dumps(checkpoint.document).encode(), np.uint8)
    members: dict[str, Any] = {_DOCUMENT: document, **checkpoint.arrays}
    with path.open("wb") as file:
        np.savez(file, **members)
        file.flush()
        os.fsync(file.fileno())
    with zipfile.ZipFile(path) as archive:
        if archive.testzip() is not None or len(archive.namelist()) != 1 + len(checkpoint.arrays):
            raise OSError("what was written cannot be read back")


def _sync_folder(folder: Path) -> None:
    """Makes sure that the names in a folder outlast a power cut, where the system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(path: Path) -> Checkpoint | None:
    """Returns what is in a file; None if it is absent or damaged, since the one before may be whole."""
    try:
        # Opened here, since numpy leaves open what it cannot read. Its reader looks at each member's checksum.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as members:
            arrays = {name: members[name] for name in members.files}
        document = json.loads(arrays.pop(_DOCUMENT).tobytes())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return Checkpoint(document, arrays)
