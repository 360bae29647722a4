"""What a format is worth: how far its answers are off, how fast it gives them, and what they score."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import numpy as np

from pipeline.export.formats.table import Ask
from pipeline.export.golden import Original
from pipeline.export.rows import spread, unchanged
from pipeline.ingest.manifest import Manifest
from pipeline.progress import Progress

#: Images that are asked at a time.
BATCH_SIZE = 16

#: Test images that are scored, at most.
MOST_IMAGES = 1000

#: Seconds that a rate is measured for, and the calls that it takes at least.
_SECONDS, _CALLS = 1.0, 3


def ask_all(ask: Ask, pixels: np.ndarray) -> np.ndarray:
    """Returns the probabilities of `(N, H, W, C)` pixels, `BATCH_SIZE` at a time."""
    return np.concatenate(
        [ask(pixels[start : start + BATCH_SIZE]) for start in range(0, len(pixels), BATCH_SIZE)], dtype=np.float64
    )


def judge(expected: np.ndarray, found: np.ndarray, tolerance: float) -> tuple[float | None, str | None]:
    """Returns the largest difference in a probability, None where there is none to speak of, and what is wrong."""
    if found.shape != expected.shape:
        return None, f"answers have the shape {found.shape}, not {expected.shape}"
    largest = float(np.abs(found - expected).max())
    if not np.isfinite(largest):
        return None, "a probability is not a number"
    if largest > tolerance:
        return largest, f"a probability of a golden image is off by {largest:.3g}, more than {tolerance:g}"
    return largest, None


def images_per_second(ask: Ask, pixels: np.ndarray) -> float:
    """Returns the rate at which batches like `pixels` are answered: by the median call, after one that is not counted.

    The median, since a second is short enough for another process to be in the way of a few calls.
    """
    ask(pixels)
    times, end = list[float](), time.perf_counter() + _SECONDS
    while len(times) < _CALLS or time.perf_counter() < end:
        began = time.perf_counter()
        ask(pixels)
        times.append(time.perf_counter() - began)
    return len(pixels) / float(np.median(times))


def score(
    asks: Mapping[str, Ask], original: Original, test: Manifest, progress: Progress
) -> dict[str, dict[str, float]]:
    """Returns of each format its `score`, the task's headline metric, and its `agreement` with the first one.

    All are asked the same evenly spread test images, `MOST_IMAGES` at most; what is gone or changed is left out.
    Without images there are no scores. The agreement is the share of answers whose likeliest class is the same.
    """
    targets = original.task.encode_targets(test.column("label"), original.classes)
    rows = spread(len(test), MOST_IMAGES)
    scores: dict[str, list[np.ndarray]] = {name: [] for name in asks}
    same: dict[str, list[np.ndarray]] = {name: [] for name in asks}
    with progress.bar("compare formats", len(rows)) as bar:
        for batch, pixels in _batches(original, test, rows):
            answers = {name: ask(pixels) for name, ask in asks.items()}
            first = next(iter(answers.values())).argmax(axis=-1)
            for name, probabilities in answers.items():
                # Logarithms of probabilities are logits; of 0 a number, since not every score can take an infinity.
                logits = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
                scores[name].append(original.task.image_scores(logits, targets[batch]))
                same[name].append((probabilities.argmax(axis=-1) == first).ravel())
            bar.advance(len(batch))
    return {
        name: {
            "images": sum(map(len, scores[name])),
            "score": float(np.concatenate(scores[name]).mean()),
            "agreement": float(np.concatenate(same[name]).mean()),
        }
        for name in asks
        if scores[name]
    }


def _batches(original: Original, test: Manifest, rows: Sequence[int]) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yields rows and their pixels."""
    images = unchanged(test, rows)
    while batch := list(islice(images, BATCH_SIZE)):
        yield [row for row, _ in batch], decode(original, [content for _, content in batch])


def decode(original: Original, contents: Sequence[bytes]) -> np.ndarray:
    """Returns encoded images as evaluation sees them, `(N, H, W, C)` float32 in [0, 255]."""
    return np.stack([original.decode(content).numpy() for content in contents])
