"""Temperature and threshold against independent computations, and what they must never do."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss

from pipeline.train.calibration import (
    LEAST_IMAGES,
    NEVER,
    USUAL_THRESHOLD,
    fit_calibration,
    fit_temperature,
    fit_threshold,
)


def overconfident(count: int, factor: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns logits that are `factor` times too large, and labels drawn from what they should have been."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, 4)) * 2
    truth = np.array([rng.choice(4, p=row) for row in softmax(logits, axis=1)])
    return (logits * factor).astype(np.float32), truth


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_was_done(factor: float) -> None:
    logits, truth = overconfident(20_000, factor)
    assert fit_temperature(logits, truth) == pytest.approx(factor, rel=0.05)


def test_no_temperature_on_a_grid_is_likelier() -> None:
    logits, truth = overconfident(5_000, 2.0)
    grid = np.geomspace(0.5, 8, 400)
    losses = [log_loss(truth, softmax(logits.astype(float) / value, axis=1)) for value in grid]
    assert fit_temperature(logits, truth) == pytest.approx(grid[np.argmin(losses)], rel=0.02)


def test_a_set_without_a_mistake_does_not_make_the_model_certain() -> None:
    truth = np.arange(200) % 3
    logits = np.eye(3, dtype=np.float32)[truth] * 2
    temperature = fit_temperature(logits, truth)
    mistaken = 1 - softmax(logits / temperature, axis=1).max(axis=1).mean()
    assert mistaken == pytest.approx(1 / 202, rel=0.05)


def test_a_temperature_that_is_not_needed_is_1() -> None:
    alone = [fit_calibration(*overconfident(500, 1.0, seed), 0.9).temperature for seed in range(40)]
    assert alone.count(1.0) >= 34  # 5 % are found by luck
    assert fit_calibration(*overconfident(500, 1.5), 0.9).temperature > 1.2


def test_few_images_change_nothing() -> None:
    logits, truth = overconfident(LEAST_IMAGES - 1, 3.0)
    found = fit_calibration(logits, truth, 0.95)
    assert (found.temperature, found.threshold, found.images) == (1.0, USUAL_THRESHOLD, LEAST_IMAGES - 1)
    assert "too few" in found.note
    assert fit_calibration(*overconfident(LEAST_IMAGES, 3.0), 0.95).temperature > 1.5


def test_the_threshold_keeps_as_many_answers_as_are_right_often_enough() -> None:
    confidence = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    hits = np.array([True, True, False, True, False])
    assert fit_threshold(confidence, hits, 1.0) == 0.8
    assert fit_threshold(confidence, hits, 0.75) == 0.6  # 3 of 4, though 2 of 3 are too few
    assert fit_threshold(confidence, hits, 0.6) == 0.0  # 3 of 5: all may stand
    assert fit_threshold(confidence, ~hits, 1.0) == NEVER


def test_answers_of_equal_probability_are_kept_together() -> None:
    confidence = np.array([0.9, 0.7, 0.7])
    assert fit_threshold(confidence, np.array([True, True, False]), 0.9) == 0.9
    assert fit_threshold(confidence, np.array([True, False, True]), 0.9) == 0.9


def test_the_order_of_images_does_not_matter() -> None:
    logits, truth = overconfident(500, 2.0)
    order = np.random.default_rng(1).permutation(500)
    one, other = fit_calibration(logits, truth, 0.9), fit_calibration(logits[order], truth[order], 0.9)
    assert one.temperature == pytest.approx(other.temperature, rel=1e-6)
    assert one.threshold == pytest.approx(other.threshold, rel=1e-6)


def test_the_note_tells_what_the_threshold_leaves() -> None:
    logits, truth = overconfident(2_000, 2.0)
    found = fit_calibration(logits, truth, 0.9)
    confidence = softmax(logits.astype(float) / found.temperature, axis=1).max(axis=1)
    kept = confidence >= found.threshold
    share = (logits.argmax(axis=1) == truth)[kept].mean()
    assert share >= 0.9
    assert found.note == f"above it {100 * share:.1f} % of {kept.sum()} validation answers are right"
    assert "by every answer" in fit_calibration(logits, logits.argmax(axis=1), 0.9).note
    assert "never is confident" in fit_calibration(logits, logits.argmin(axis=1), 0.9).note
