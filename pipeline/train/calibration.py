"""What a classifier's probabilities mean: a temperature, and a threshold to abstain below. NumPy and SciPy only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.tasks.base import Calibration

#: Fewer validation images than this and a temperature harms as often as it helps.
LEAST_IMAGES = 100

#: Between which a temperature is looked for.
TEMPERATURES = (0.05, 20.0)

#: Where there is too little to fit one: an answer that is more likely right than wrong, by the model's own account.
USUAL_THRESHOLD = 0.5

#: A threshold above every probability.
NEVER = 1.1


def fit_calibration(logits: np.ndarray, truth: np.ndarray, confident_accuracy: float) -> Calibration:
    """Returns temperature and threshold that suit validation images.

    Args:
        logits: `(N, C)`.
        truth: `(N,)` class ids.
        confident_accuracy: The share of the answers above the threshold that shall be right, in (0, 1].
    """
    from scipy.special import softmax

    count = len(truth)
    if count < LEAST_IMAGES:
        note = f"{count} validation images are too few to fit a temperature (below {LEAST_IMAGES}); it stays 1"
        return Calibration(1.0, USUAL_THRESHOLD, count, note)
    temperature = needed_temperature(logits, truth)
    probabilities = softmax(logits.astype(np.float64) / temperature, axis=1)
    confidence, hits = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    threshold = fit_threshold(confidence, hits, confident_accuracy)
    kept, wanted = confidence >= threshold, f"{100 * confident_accuracy:g} %"
    if not threshold:
        note = f"{wanted} of all {count} validation answers are right, so the model stands by every answer"
    elif not kept.any():
        note = f"no threshold leaves {wanted} right among {count} validation images, so the model never is confident"
    else:
        note = f"above it {100 * hits[kept].mean():.1f} % of {int(kept.sum())} validation answers are right"
    return Calibration(temperature, threshold, count, note)


def needed_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """Returns the best temperature, 1 where the images cannot tell it from 1: a likelihood-ratio test at 5 %.

    What is fitted without need only adds noise to probabilities that are as good already.
    """
    from scipy.stats import chi2

    temperature, loss = fit_temperature(logits, truth), softened_loss(logits, truth)
    gain = 2 * len(truth) * (loss(1.0) - loss(temperature))
    return temperature if gain > chi2.ppf(0.95, 1) else 1.0


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """Returns what to divide logits by so that the truth is likeliest (Guo et al. 2017, 1706.04599)."""
    from scipy.optimize import minimize_scalar

    loss = softened_loss(logits, truth)
    bounds = np.log(TEMPERATURES)
    found = minimize_scalar(lambda log: loss(np.exp(log)), bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def softened_loss(logits: np.ndarray, truth: np.ndarray) -> Callable[[float], float]:
    """Returns the function from a temperature to the mean negative log likelihood.

    The truth is held to be right with probability (N + 1)/(N + 2) only (Platt 1999): without a mistake among the
    images the best temperature would be 0.
    """
    from scipy.special import logsumexp

    count, num_classes = logits.shape
    wide = logits.astype(np.float64)
    spread = 1 / (count + 2)
    # Cross-entropy with the softened target: the logsumexp less the target's mean of the logits.
    others = (wide.sum(axis=1) - wide[np.arange(count), truth]) / max(1, num_classes - 1)
    wanted = (1 - spread) * wide[np.arange(count), truth] + spread * others

    return lambda temperature: float((logsumexp(wide / temperature, axis=1) - wanted / temperature).mean())


def fit_threshold(confidence: np.ndarray, hits: np.ndarray, accuracy: float) -> float:
    """Returns the least probability from which on answers are right often enough; 0 where all may stand.

    Args:
        confidence: `(N,)` probability of each answer.
        hits: `(N,)` whether it is right.
        accuracy: The share of answers with at least that probability that must be right; where it is never reached,
            the threshold is above every probability.
    """
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence = confidence[order]
    share = np.cumsum(hits[order]) / np.arange(1, len(order) + 1)
    # Answers of equal probability are kept together or not at all.
    last_of_equals = np.append(sorted_confidence[1:] != sorted_confidence[:-1], True)
    enough = np.flatnonzero(last_of_equals & (share >= accuracy))
    if not len(enough):
        return NEVER
    return 0.0 if enough[-1] == len(order) - 1 else float(sorted_confidence[enough[-1]])
