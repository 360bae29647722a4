"""Reliability and Brier score against scikit-learn and sums by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from pipeline.evaluate.calibration import brier_score, calibration_chapter, calibration_error, reliability
from pipeline.tasks.base import Calibration

RNG = np.random.default_rng(0)
PROBABILITIES = RNG.dirichlet([0.5, 0.5, 0.5], 500)
TRUTH = RNG.integers(0, 3, 500)


def test_the_bins_are_those_of_scikit_learn() -> None:
    found = reliability(PROBABILITIES, TRUTH, "", bins=10)
    full = np.asarray(found.counts) > 0
    hits, confidence = PROBABILITIES.argmax(axis=1) == TRUTH, PROBABILITIES.max(axis=1)
    accuracy, mean = calibration_curve(hits, confidence, n_bins=10)
    np.testing.assert_allclose(np.asarray(found.accuracy)[full], accuracy)
    np.testing.assert_allclose(np.asarray(found.confidence)[full], mean)
    assert sum(found.counts) == 500


def test_the_error_is_the_mean_gap() -> None:
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.55, 0.45], [0.45, 0.55]])
    found = reliability(probabilities, np.array([0, 1, 0, 1]), "", bins=10)
    assert calibration_error(found) == pytest.approx((2 * abs(0.95 - 0.5) + 2 * abs(0.55 - 1.0)) / 4)


def test_certain_and_right_is_perfect_certain_and_wrong_the_opposite() -> None:
    certain = np.eye(3)[TRUTH]
    assert calibration_error(reliability(certain, TRUTH, "")) == 0
    assert calibration_error(reliability(certain, (TRUTH + 1) % 3, "")) == 1


def test_brier_score_of_two_classes_is_twice_scikit_learns() -> None:
    pairs = PROBABILITIES[:, :2] / PROBABILITIES[:, :2].sum(axis=1, keepdims=True)
    truth = TRUTH % 2
    assert brier_score(pairs, truth) == pytest.approx(2 * brier_score_loss(truth, pairs[:, 1]))


def test_the_chapter_says_what_the_model_stands_by() -> None:
    kept = PROBABILITIES.max(axis=1) >= 0.8
    chapter = calibration_chapter(PROBABILITIES, PROBABILITIES, TRUTH, Calibration(1.0, 0.8, 300, "why"))
    assert chapter.metrics["test/confident_share"] == pytest.approx(kept.mean())
    right = (PROBABILITIES.argmax(axis=1) == TRUTH)[kept].mean()
    assert chapter.metrics["test/confident_accuracy"] == pytest.approx(right)
    assert f"stands by {kept.mean():.0%}" in chapter.finding
    assert chapter.document["temperature"] == 1.0
    never = calibration_chapter(PROBABILITIES, PROBABILITIES, TRUTH, Calibration(1.0, 1.1, 300, "why"))
    assert "test/confident_accuracy" not in never.metrics
    assert "No answer reaches" in never.finding
