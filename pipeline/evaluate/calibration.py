"""Whether probabilities mean what they say: reliability, expected calibration error, Brier score. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from pipeline.tasks.base import Calibration, Chapter

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """Answers sorted by their probability into bins of equal width, empty bins left out.

    Attributes:
        confidence: Mean probability of the answers in each bin.
        accuracy: Share of them that is right.
        images: How many they are.
        ece: Expected calibration error: the mean distance of both over all images, in [0, 1].
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    images: np.ndarray
    ece: float


def reliability(probabilities: np.ndarray, truth: np.ndarray, bins: int = BINS) -> Reliability:
    """Returns the reliability of the likeliest classes (Guo et al. 2017, 1706.04599, equations 2 and 3).

    Args:
        probabilities: `(N, C)` in [0, 1].
        truth: `(N,)` class ids.
        bins: Number of bins (m/bins, (m+1)/bins].
    """
    confidence, hits = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    images = np.bincount(number, minlength=bins)
    used = images > 0
    mean = np.bincount(number, confidence, bins)[used] / images[used]
    right = np.bincount(number, hits, bins)[used] / images[used]
    gap = float((np.abs(mean - right) * images[used]).sum() / len(truth))
    return Reliability(mean, right, images[used], gap)


def brier_score(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Returns the mean squared distance of probabilities and truth, summed over classes, in [0, 2] (Brier 1950)."""
    wanted = np.eye(probabilities.shape[1])[truth]
    return float(((probabilities - wanted) ** 2).sum(axis=1).mean())


def calibration_chapter(before: np.ndarray, after: np.ndarray, truth: np.ndarray, calibration: Calibration) -> Chapter:
    """Returns the chapter on what probabilities are worth.

    Args:
        before: `(N, C)` probabilities at temperature 1.
        after: `(N, C)` the same, calibrated.
        truth: `(N,)` class ids.
        calibration: What made `after` of `before`, and the threshold.
    """
    raw, fitted = reliability(before, truth), reliability(after, truth)
    confident = after.max(axis=1) >= calibration.threshold
    metrics = {
        "test/ece": fitted.ece,
        "test/ece_uncalibrated": raw.ece,
        "test/brier": brier_score(after, truth),
        "test/confident_share": float(confident.mean()),
    }
    hits = after.argmax(axis=1) == truth
    if confident.any():
        metrics["test/confident_accuracy"] = float(hits[confident].mean())
    return Chapter(
        name="calibration",
        title="Calibration",
        finding=_finding(metrics, calibration),
        metrics=metrics,
        document=asdict(calibration),
    )


def _finding(metrics: Mapping[str, float], calibration: Calibration) -> str:
    fitted = calibration.temperature != 1
    was = f" (it was {metrics['test/ece_uncalibrated']:.3f} without a temperature of {calibration.temperature:.2f})"
    words = f"Probabilities are off by {metrics['test/ece']:.3f} on average{was if fitted else ''}."
    if "test/confident_accuracy" not in metrics:
        return f"{words} No answer reaches the threshold of {calibration.threshold:.2f}: {calibration.note}."
    return (
        f"{words} The model stands by {metrics['test/confident_share']:.0%} of its answers, and "
        f"{metrics['test/confident_accuracy']:.1%} of those are right; threshold {calibration.threshold:.2f}: "
        f"{calibration.note}."
    )
