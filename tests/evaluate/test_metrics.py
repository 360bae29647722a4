from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss, roc_auc_score

from pipeline.evaluate.metrics import ClassificationScores, classification_scores, in_top_k, softmax

TRUTH = np.array([0, 0, 0, 1, 1, 2])
#                 right       wrong: 1     right      right      wrong: 0    wrong: 1
PROBABILITIES = np.array(
    [[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3]]
)


def scores_of(
    probabilities: np.ndarray, truth: np.ndarray, clusters: Sequence[object] | None = None, top_k: int = 5
) -> ClassificationScores:
    """Scores of images that are all alone, unless clusters are given, of a training set without a commonest class."""
    alone = range(len(truth)) if clusters is None else clusters
    return classification_scores(probabilities, truth, list(alone), np.ones(probabilities.shape[1], int), top_k)


def simulated(seed: int, images: int = 300, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = random.integers(classes, size=images)
    logits = random.gumbel(size=(images, classes))
    logits[np.arange(images), truth] += 3
    return softmax(logits), truth


def test_scores_of_six_images_by_hand() -> None:
    found = classification_scores(PROBABILITIES, TRUTH, list("abcdef"), train_counts=np.array([1, 5, 2]), top_k=5)
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
    assert metrics["balanced_accuracy"] == pytest.approx((2 / 3 + 1 / 2) / 3)
    assert metrics["effective_images"] == metrics["images"] == 6
    chosen = [0.7, 0.3, 0.5, 0.8, 0.3, 0.3]
    assert metrics["log_loss"] == pytest.approx(-sum(map(math.log, chosen)) / 6)


def test_the_interval_is_wilsons() -> None:
    hits, count, z = 45, 50, 1.959963984540054
    probabilities = np.tile([0.9, 0.1], (count, 1))
    truth = np.array([0] * hits + [1] * (count - hits))
    metrics = scores_of(probabilities, truth).metrics
    share = hits / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    assert metrics["top_1_low"] == pytest.approx(middle - half)
    assert metrics["top_1_high"] == pytest.approx(middle + half)
    assert "top_1" in metrics
    assert not any(name.startswith("top_") and name[4:].isdigit() and name != "top_1" for name in metrics)


def test_a_class_without_test_images_has_no_share_in_macro_f1() -> None:
    truth = np.array([0, 0, 1, 1])
    found = scores_of(np.eye(3)[truth], truth)
    metrics = found.metrics
    assert metrics["macro_f1"] == metrics["balanced_accuracy"] == metrics["roc_auc"] == metrics["pr_auc"] == 1.0
    assert (found.recall[2], found.recall_interval.low[2], found.recall_interval.high[2]) == (0, 0, 1)
    assert (found.precision[2], found.precision_interval.low[2], found.precision_interval.high[2]) == (0, 0, 1)


def test_top_k_of_equals_takes_the_lower_class() -> None:
    assert in_top_k(np.full((4, 4), 0.25), np.array([0, 1, 2, 3]), 2).tolist() == [True, True, False, False]


def test_softmax_does_not_overflow() -> None:
    found = softmax(np.float32([[1e4, 0], [0, 1], [-1e4, -1e4]]))
    np.testing.assert_allclose(found, [[1, 0], [1 / (1 + math.e), math.e / (1 + math.e)], [0.5, 0.5]])


def test_scores_are_scikit_learns() -> None:
    probabilities, truth = simulated(0)
    metrics, predicted = scores_of(probabilities, truth).metrics, probabilities.argmax(axis=1)
    assert metrics["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert metrics["log_loss"] == pytest.approx(log_loss(truth, probabilities))
    assert metrics["roc_auc"] == pytest.approx(roc_auc_score(truth, probabilities, multi_class="ovr"))


def test_without_copies_recall_and_precision_have_wilsons_interval() -> None:
    probabilities, truth = simulated(1)
    found = scores_of(probabilities, truth)
    for interval, totals in (
        (found.recall_interval, found.confusion.sum(axis=1)), (found.precision_interval, found.confusion.sum(axis=0)),
    ):  # fmt: skip
        for number, total in enumerate(totals.tolist()):
            wilson = binomtest(int(found.confusion[number, number]), total).proportion_ci(method="wilson")
            assert interval.low[number] == pytest.approx(wilson.low)
            assert interval.high[number] == pytest.approx(wilson.high)


SURE = ("top_1", "top_3", "macro_f1", "balanced_accuracy", "log_loss")


def intervals(found: ClassificationScores) -> np.ndarray:
    ends = [[found.metrics[f"{name}_{end}"] for name in SURE] for end in ("low", "high")]
    per_class = [np.concatenate(pair) for pair in zip(found.recall_interval, found.precision_interval, strict=True)]
    return np.concatenate([ends, per_class], axis=1)


def test_copies_of_all_images_change_no_interval() -> None:
    probabilities, truth = simulated(2)
    once = scores_of(probabilities, truth, top_k=3)
    thrice = scores_of(np.repeat(probabilities, 3, axis=0), np.repeat(truth, 3), np.repeat(range(300), 3).tolist(), 3)
    np.testing.assert_allclose(intervals(thrice), intervals(once), rtol=1e-3)
    assert thrice.metrics["effective_images"] == pytest.approx(300)
    unknown = scores_of(np.repeat(probabilities, 3, axis=0), np.repeat(truth, 3), top_k=3)
    widths = np.diff(intervals(unknown), axis=0) / np.diff(intervals(once), axis=0)
    np.testing.assert_allclose(widths, 3**-0.5, rtol=0.15)  # what the clusters are for


def test_the_order_of_the_images_does_not_matter() -> None:
    probabilities, truth = simulated(3)
    names = [f"cluster {number}" for number in np.random.default_rng(3).integers(120, size=300)]
    order = np.random.default_rng(4).permutation(300)
    before = scores_of(probabilities, truth, names, 3)
    after = scores_of(probabilities[order], truth[order], [names[place] for place in order], 3)
    np.testing.assert_allclose(intervals(after), intervals(before), rtol=1e-9)
    assert after.metrics == pytest.approx(before.metrics)


@pytest.mark.parametrize("right", [True, False])
def test_all_right_or_all_wrong_is_not_certainty(right: bool) -> None:
    truth = np.arange(60) % 3
    metrics = scores_of(np.eye(3)[truth if right else (truth + 1) % 3], truth).metrics
    for name in ("top_1", "macro_f1", "balanced_accuracy"):
        assert metrics[name] == metrics[f"{name}_{'high' if right else 'low'}"] == float(right)
        width = metrics[f"{name}_high"] - metrics[f"{name}_low"]
        assert width == pytest.approx(1.96**2 / (60 + 1.96**2), rel=1e-3)


def test_one_cluster_is_one_image() -> None:
    probabilities, truth = simulated(5)
    metrics = scores_of(probabilities, truth, ["the same"] * 300).metrics
    assert metrics["effective_images"] == pytest.approx(1)
    assert metrics["top_1_high"] - metrics["top_1_low"] > 0.75
    assert metrics["macro_f1_high"] - metrics["macro_f1_low"] > 0.75
    assert "log_loss" in metrics
    assert "log_loss_low" not in metrics  # of one image nothing is known


def test_one_test_image() -> None:
    found = scores_of(np.array([[0.9, 0.1]]), np.array([0]))
    assert found.metrics["top_1"] == 1
    assert found.metrics["top_1_low"] == pytest.approx(1 / (1 + 1.96**2), rel=1e-3)
    assert not {"roc_auc", "pr_auc", "log_loss_low"} & set(found.metrics)  # no other class, no other image


def test_probabilities_of_zero_have_a_finite_loss() -> None:
    truth = np.array([0, 0, 1, 1])
    metrics = scores_of(np.eye(2)[[0, 0, 1, 0]], truth).metrics
    assert metrics["log_loss"] == pytest.approx(log_loss(truth, np.eye(2)[[0, 0, 1, 0]]))
    assert 0 <= metrics["log_loss_low"] <= metrics["log_loss"] <= metrics["log_loss_high"]
