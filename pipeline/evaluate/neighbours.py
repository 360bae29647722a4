"""Which rows lie nearest: cosine similarity of features, read chunk by chunk. NumPy only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: Numbers that are worked on at a time, 32 MiB of them: features that are read from a map are never copied whole.
_CHUNK = 2**22

#: Of a similarity. Equal rows differ in the last bits by where they stand in a product; rounded they are ties again.
_DECIMALS = 9


@dataclass(frozen=True)
class Neighbours:
    """The nearest rows of each of Q queries, the nearest first; of rows equally near the one that came first.

    Attributes:
        places: `(Q, k)` int64, the rows' numbers.
        similarities: `(Q, k)` float64 in [-1, 1], the cosine of the angle between query and row.
    """

    places: npt.NDArray[np.int64]
    similarities: npt.NDArray[np.float64]


def nearest_neighbours(queries: np.ndarray, features: Iterable[np.ndarray], k: int) -> Neighbours:
    """Returns the `k` rows most similar to each query, all of them where there are fewer.

    Args:
        queries: `(Q, D)`. One of zeros has similarity 0 with everything, as has a row of zeros with every query.
        features: `(n, D)` each: the rows in parts, numbered through all of them.
        k: At least 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    sought = _of_length_one(queries)
    best = Neighbours(np.empty((len(sought), 0), np.int64), np.empty((len(sought), 0)))
    first = 0
    for part in features:
        step = max(1, _CHUNK // max(1, part.shape[1]))
        for start in range(0, len(part), step):
            rows = _of_length_one(part[start : start + step])
            best = _nearer(best, sought, rows, first, k)
            first += len(rows)
    return best


def _of_length_one(rows: np.ndarray) -> npt.NDArray[np.float64]:
    wide = rows.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.divide(wide, lengths, out=wide, where=lengths > 0)


def _nearer(
    best: Neighbours, queries: npt.NDArray[np.float64], rows: npt.NDArray[np.float64], first: int, k: int
) -> Neighbours:
    """Returns the nearest of what was found before and some more rows, numbered from `first`."""
    step = max(1, _CHUNK // len(rows))
    parts = [
        _merged(
            best.places[start : start + step], best.similarities[start : start + step],
            np.round(queries[start : start + step] @ rows.T, _DECIMALS), first, k,
        )
        for start in range(0, max(1, len(queries)), step)  # no query is one part, too
    ]  # fmt: skip
    places, similarities = zip(*parts, strict=True)
    return Neighbours(np.concatenate(places), np.concatenate(similarities))


def _merged(
    places: npt.NDArray[np.int64], similarities: npt.NDArray[np.float64], found: npt.NDArray[np.float64], first: int,
    k: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:  # fmt: skip
    """Returns the `k` best of each line of two tables; a stable sort, since all of the first came before the second."""
    numbers = np.broadcast_to(np.arange(first, first + found.shape[1]), found.shape)
    places, similarities = np.hstack([places, numbers]), np.hstack([similarities, found])
    k = min(k, similarities.shape[1])
    least = np.partition(similarities, -k, axis=1)[:, -k]
    chosen = np.empty((len(places), k), np.int64)
    for query, (line, worst) in enumerate(zip(similarities, least, strict=True)):
        enough = np.flatnonzero(line >= worst)  # all that tie for the last place, too
        chosen[query] = enough[np.argsort(-line[enough], kind="stable")[:k]]
    return np.take_along_axis(places, chosen, 1), np.take_along_axis(similarities, chosen, 1)
