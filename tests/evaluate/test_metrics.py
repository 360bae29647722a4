from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.evaluate.metrics import classification_scores, softmax, top_k_accuracy

TRUTH = np.array([0, 0, 0, 1, 1, 2])
#                 right       wrong: 1     right      right      wrong: 0    wrong: 1
PROBABILITIES = np.array(
    [[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3]]
)


def test_scores_of_six_images_by_hand() -> None:
    found = classification_scores(PROBABILITIES, TRUTH, train_counts=np.array([1, 5, 2]), top_k=5)
    np.testing.assert_array_equal(found.confusion, [[2, 1, 0], [1, 1, 0], [0, 1, 0]])
    np.testing.assert_allclose(found.recall, [2 / 3, 1 / 2, 0])
    np.testing.assert_allclose(found.precision, [2 / 3, 1 / 3, 0])
    np.testing.assert_allclose(found.f1, [2 / 3, 2 / 5, 0])
    np.testing.assert_array_equal(found.support, [3, 2, 1])
    metrics = found.metrics
    assert metrics["top_1"] == 0.5
    assert metrics["top_2"] == 1.0  # top-5 of three classes would be no achievement; so it is top-2
    assert metrics["majority_baseline"] == pytest.approx(2 / 6)  # the commonest class in train, not in test
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 2 / 5) / 3)
    chosen = [0.7, 0.3, 0.5, 0.8, 0.3, 0.3]
    assert metrics["log_loss"] == pytest.approx(-sum(map(math.log, chosen)) / 6)


def test_the_interval_is_wilsons() -> None:
    hits, count, z = 45, 50, 1.959963984540054
    probabilities = np.tile([0.9, 0.1], (count, 1))
    truth = np.array([0] * hits + [1] * (count - hits))
    metrics = classification_scores(probabilities, truth, np.array([1, 1]), 5).metrics
    share = hits / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    assert metrics["top_1_low"] == pytest.approx(middle - half)
    assert metrics["top_1_high"] == pytest.approx(middle + half)
    assert "top_1" in metrics
    assert not any(name.startswith("top_") and name[4:].isdigit() and name != "top_1" for name in metrics)


def test_a_class_without_test_images_has_no_share_in_macro_f1() -> None:
    truth = np.array([0, 0, 1, 1])
    found = classification_scores(np.eye(3)[truth], truth, np.array([1, 1, 1]), 5)
    assert found.metrics["macro_f1"] == 1.0


def test_top_k_of_equals_takes_the_lower_class() -> None:
    assert top_k_accuracy(np.full((4, 4), 0.25), np.array([0, 1, 2, 3]), 2) == 0.5


def test_softmax_does_not_overflow() -> None:
    found = softmax(np.float32([[1e4, 0], [0, 1], [-1e4, -1e4]]))
    np.testing.assert_allclose(found, [[1, 0], [1 / (1 + math.e), math.e / (1 + math.e)], [0.5, 0.5]])
