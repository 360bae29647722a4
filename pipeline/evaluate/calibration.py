"""Whether probabilities mean what they say: reliability, expected calibration error, Brier score. NumPy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np

from pipeline.evaluate.intervals import wilson_interval
from pipeline.pictures.scores import Reliability, reliability_figure
from pipeline.tasks.base import Calibration, Chapter, Picture

BINS = 15


def reliability(probabilities: np.ndarray, truth: np.ndarray, name: str, bins: int = BINS) -> Reliability:
    """Returns how often the likeliest class is right, by how likely it is (Guo et al. 2017, 1706.04599, equation 2).

    Args:
        probabilities: `(N, C)` in [0, 1].
        truth: `(N,)` class ids.
        name: Of the probabilities, for people.
        bins: Number of bins (m/bins, (m+1)/bins].
    """
    confidence, hits = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    images = np.bincount(number, minlength=bins)
    sums = np.bincount(number, confidence, bins), np.bincount(number, hits, bins)
    mean, right = (np.divide(of, images, out=np.zeros(bins), where=images > 0) for of in sums)
    ends = (of.tolist() for of in wilson_interval(right, images))
    return Reliability(name, mean.tolist(), right.tolist(), images.tolist(), *ends)


def calibration_error(of: Reliability) -> float:
    """Returns the expected calibration error, in [0, 1]: the mean gap of confidence and accuracy (equation 3)."""
    images = np.asarray(of.counts)
    return float((np.abs(np.asarray(of.confidence) - np.asarray(of.accuracy)) * images).sum() / images.sum())


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
    named = f"temperature {calibration.temperature:.2f}"
    raw, fitted = reliability(before, truth, "temperature 1"), reliability(after, truth, named)
    confident = after.max(axis=1) >= calibration.threshold
    metrics = {
        "test/ece": calibration_error(fitted),
        "test/ece_uncalibrated": calibration_error(raw),
        "test/brier": brier_score(after, truth),
        "test/confident_share": float(confident.mean()),
    }
    hits = after.argmax(axis=1) == truth
    if confident.any():
        metrics["test/confident_accuracy"] = float(hits[confident].mean())
    curves = [fitted] if calibration.temperature == 1 else [raw, fitted]
    finding = _finding(metrics, calibration)
    figure = reliability_figure(np.linspace(0, 1, BINS + 1).tolist(), curves, _gap(metrics, calibration))
    return Chapter(
        name="calibration",
        title="Calibration",
        finding=finding,
        metrics=metrics,
        document=asdict(calibration),
        pictures={"reliability.png": Picture(figure, f"reliability diagram: {finding}")},
    )


def _finding(metrics: Mapping[str, float], calibration: Calibration) -> str:
    words = f"{_gap(metrics, calibration)}."
    if "test/confident_accuracy" not in metrics:
        return f"{words} No answer reaches the threshold of {calibration.threshold:.2f}: {calibration.note}."
    return (
        f"{words} The model stands by {metrics['test/confident_share']:.0%} of its answers, and "
        f"{metrics['test/confident_accuracy']:.1%} of those are right; threshold {calibration.threshold:.2f}: "
        f"{calibration.note}."
    )


def _gap(metrics: Mapping[str, float], calibration: Calibration) -> str:
    was = f", {metrics['test/ece_uncalibrated']:.3f} before" if calibration.temperature != 1 else ""
    return f"Probabilities are off by {metrics['test/ece']:.3f} on average{was}"
