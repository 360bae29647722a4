"""Looks at every image once, before anything is trained: can it be read, how large is it, what are its bytes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline.errors import DataError
from pipeline.files import file_digest
from pipeline.images.headers import Header, check_image, quiet_pillow
from pipeline.ingest.sources import Item
from pipeline.progress import Progress


@dataclass(frozen=True)
class Scanned:
    """A readable image: where it came from, what its header says, the SHA-256 of its bytes."""

    item: Item
    header: Header
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Rejected:
    """An image that cannot be trained on, and why."""

    item: Item
    reason: str


def scan(items: Sequence[Item], progress: Progress) -> tuple[list[Scanned], list[Rejected]]:
    """Returns the readable images and the others, both in the order given."""
    good: list[Scanned] = []
    bad: list[Rejected] = []
    # Pillow releases the interpreter's lock while it decodes.
    with (
        quiet_pillow(),
        ThreadPoolExecutor(os.cpu_count()) as workers,
        progress.bar("ingest", len(items)) as bar,
    ):
        for result in workers.map(_scan_one, items):
            if isinstance(result, Scanned):
                good.append(result)
            else:
                bad.append(result)
            bar.advance()
    return good, bad


def _scan_one(item: Item) -> Scanned | Rejected:
    try:
        str(item.path).encode()
        header = check_image(item.path)
        return Scanned(item, header, file_digest(item.path), item.path.stat().st_size)
    except DataError as error:
        return Rejected(item, str(error))
    except UnicodeEncodeError:
        return Rejected(item, "its name is not UTF-8; rename it")
    except OSError as error:
        return Rejected(item, f"cannot be read: {error.strerror}")
