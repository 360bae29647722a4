"""Images of a manifest that the stage export needs: which, and their bytes as ingest saw them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from pipeline.files import keyed_seed
from pipeline.ingest.manifest import Manifest
from pipeline.train.dataset import load_images


def spread(total: int, count: int) -> list[int]:
    """Returns up to `count` rows at even distances: over the classes, where ids begin with them.

    >>> spread(9, 3)
    [0, 4, 8]
    """
    rows: list[int] = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int)).tolist()
    return rows


def spread_over_classes(manifest: Manifest, count: int) -> list[int]:
    """Returns up to `count` rows, as many of one class as of another where there are enough.

    Which of a class is decided by the images' bytes: the same on every machine, and the same though others are added.
    """
    keys = [keyed_seed("calibration", digest) for digest in manifest.column("sha256")]
    labels, seen, rank = manifest.column("label"), dict[str, int](), dict[int, int]()
    order = sorted(range(len(manifest)), key=lambda row: keys[row])
    for row in order:
        rank[row] = seen[labels[row]] = seen.get(labels[row], 0) + 1
    return sorted(order, key=lambda row: rank[row])[:count]


def unchanged(manifest: Manifest, rows: Iterable[int]) -> Iterator[tuple[int, bytes]]:
    """Yields each row with the bytes of its image.

    One that is gone or no longer what it was at ingest proves nothing and is left out; it is no reason to fail.
    """
    nothing = np.zeros((len(manifest), 0), np.float32)
    images = load_images(manifest, nothing, nothing[:0], 0)
    for row in rows:
        try:
            content = Path(images.paths[row]).read_bytes()
        except OSError:
            continue
        if hashlib.sha256(content).hexdigest() == images.contents[row]:
            yield row, content
