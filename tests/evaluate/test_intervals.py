from __future__ import annotations

import time
from collections import defaultdict

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_1samp

from pipeline.evaluate.intervals import (
    Clusters,
    effective_predictions,
    macro_intervals,
    macro_scores,
    mean_interval,
    wilson_interval,
)
from pipeline.evaluate.metrics import classification_scores, softmax


@pytest.mark.parametrize(("hits", "count"), [(0, 20), (1, 20), (13, 20), (20, 20), (180, 200)])
def test_wilson_is_scipys(hits: int, count: int) -> None:
    wanted = binomtest(hits, count).proportion_ci(method="wilson")
    found = wilson_interval(hits / count, count)
    assert (float(found.low), float(found.high)) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    assert found.low <= hits / count <= found.high


def test_wilson_of_nothing_is_everything() -> None:
    found = wilson_interval([0, 0.5], [0, 0])
    np.testing.assert_array_equal(found, [[0, 0], [1, 1]])


def test_images_that_agree_are_worth_their_clusters() -> None:
    clusters, hits = np.repeat(np.arange(40), 5), np.repeat(np.arange(40) % 4 > 0, 5)
    found = Clusters(clusters)
    assert found.agreement(hits) == 1
    assert found.effective(1.0) == pytest.approx([40])


def test_of_clusters_of_different_sizes_large_ones_count_less() -> None:
    """By hand: 10 images in clusters of 4, 1, 1, 2, 2 are worth 100 / (16 + 1 + 1 + 4 + 4)."""
    found = Clusters(np.array([0, 0, 0, 0, 1, 2, 3, 3, 4, 4]))
    assert found.size == pytest.approx([2.6])
    assert found.effective(1.0) == pytest.approx([100 / 26])
    assert found.effective(0.5) == pytest.approx([10 / 1.8])


def test_agreement_by_hand() -> None:
    """Of the 3 pairs within clusters 1 differs, of the 12 between clusters 7: listed below."""
    clusters, values = np.array([0, 0, 1, 1, 2, 2]), np.array([1, 0, 1, 1, 0, 0])
    pairs = [(a, b) for a in range(6) for b in range(a)]
    within = [values[a] != values[b] for a, b in pairs if clusters[a] == clusters[b]]
    between = [values[a] != values[b] for a, b in pairs if clusters[a] != clusters[b]]
    assert Clusters(clusters).agreement(values) == pytest.approx(1 - np.mean(within) / np.mean(between))
    assert Clusters(clusters).agreement(values + 1e6) == pytest.approx(1 - np.mean(within) / np.mean(between))


def test_agreement_of_independent_members_is_small() -> None:
    random = np.random.default_rng(0)
    clusters = np.repeat(np.arange(2000), 3)
    assert Clusters(clusters).agreement(random.random(6000) < 0.8) < 0.05


def test_what_cannot_be_known_is_taken_for_agreement() -> None:
    clusters = np.repeat(np.arange(10), 4)
    assert Clusters(clusters).agreement(np.ones(40)) == 1
    assert Clusters(np.zeros(4, np.int64)).agreement([0, 1, 0, 1]) == 1


def test_groups_are_looked_at_apart() -> None:
    """A cluster with images of two classes is two clusters; classes of different difficulty are no agreement."""
    found = Clusters(np.zeros(6, np.int64), np.array([0, 0, 0, 0, 2, 2]), 3)
    np.testing.assert_array_equal(found.images, [4, 0, 2])
    np.testing.assert_array_equal(found.size, [4, 1, 2])
    np.testing.assert_allclose(found.effective(1.0), [1, 0, 1])
    random = np.random.default_rng(0)
    clusters, groups = np.repeat(np.arange(1000), 2), np.repeat([0, 1], 1000)
    hits = random.random(2000) < np.array([0.9, 0.1])[groups]
    assert Clusters(clusters, groups, 2).agreement(hits) < 0.1
    assert Clusters(clusters).agreement(hits) > 0.5


def test_images_taken_for_a_class_count_by_their_clusters() -> None:
    """By hand, of class 0: a cluster of 4 hits, another of 2, and 2 + 1 misses of two clusters; p = 6 / 9."""
    truth, predicted = np.array([0] * 6 + [1] * 5), np.array([0] * 9 + [1] * 2)
    clusters = np.array([0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 5])
    hits, misses, taken = (16 + 4) / 6, (4 + 1) / 3, (16 + 4 + 4 + 1) / 9
    found = effective_predictions(truth, predicted, clusters, 3, 1.0)
    assert found == pytest.approx([9 / (hits / 3 + taken * 2 / 3), 2 / misses, 0])
    # Members that do not agree: the misses count as they are, the hits are a cluster all the same.
    found = effective_predictions(truth, predicted, clusters, 3, 0.0)
    assert found == pytest.approx([9 / (hits / 3 + misses * 2 / 3), 2 / misses, 0])


def test_the_mean_of_symmetric_values_has_students_interval() -> None:
    half = np.random.default_rng(0).normal(size=50)
    values = 3 + np.concatenate([half, -half])  # no skewness at all
    wanted = ttest_1samp(values, 0).confidence_interval()
    assert tuple(mean_interval(values, np.arange(100))) == pytest.approx((wanted.low, wanted.high))


def test_a_skewed_mean_reaches_further_to_where_its_tail_is() -> None:
    values = np.random.default_rng(0).exponential(size=100)
    found = mean_interval(values, np.arange(100))
    assert found.high - values.mean() > 1.15 * (values.mean() - found.low)
    mirrored = mean_interval(-values, np.arange(100))
    assert tuple(mirrored) == pytest.approx((-found.high, -found.low))


def test_the_mean_of_one_cluster_is_unknown_and_of_equal_values_known() -> None:
    assert np.isnan(mean_interval([1.0, 2.0], np.zeros(2, np.int64))).all()
    assert tuple(mean_interval([0.0, 0.0], np.arange(2))) == (0, 0)


def test_macro_scores_leave_out_classes_without_images() -> None:
    f1, recall = macro_scores(np.array([3.0, 1, 0]), np.array([4.0, 2, 0]), np.array([3.0, 2, 1]))
    assert f1 == pytest.approx((6 / 7 + 2 / 4) / 2)
    assert recall == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_the_bootstrap_draws_clusters() -> None:
    """Its variance is that of balanced accuracy, by the delta method; images in place of clusters give a third."""
    random = np.random.default_rng(0)
    truth = np.repeat(np.arange(60 * 4) % 4, 3)
    predicted = np.where(np.repeat(random.random(240), 3) < 0.7, truth, (truth + 1) % 4)
    clusters = np.repeat(np.arange(240), 3)
    _, found = macro_intervals(truth, predicted, clusters, np.full(4, 720.0))  # no bound but the bootstrap's
    recall = np.bincount(truth, truth == predicted) / 180
    deviation = np.sqrt((recall * (1 - recall) / 60).sum()) / 4
    assert found.high - found.low == pytest.approx(2 * 1.96 * deviation, rel=0.05)
    assert macro_intervals(truth, predicted, clusters, np.full(4, 720.0))[1] == found  # seeded


def test_macro_intervals_are_no_narrower_than_the_classes_allow() -> None:
    truth = np.arange(200) % 2
    predicted = np.where(np.arange(200) < 20, 1 - truth, truth)
    narrow = macro_intervals(truth, predicted, np.arange(200), np.array([100.0, 100.0]))[1]
    wide = macro_intervals(truth, predicted, np.arange(200), np.array([100.0, 10.0]))[1]
    assert tuple(map(float, wide)) == pytest.approx(tuple(map(float, wilson_interval(0.9, 4 / 0.11))))
    assert narrow.low > wide.low


def test_many_images_and_classes_take_seconds() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(200, size=10_000)
    predicted = np.where(random.random(10_000) < 0.8, truth, random.integers(200, size=10_000))
    began = time.process_time()
    macro_intervals(truth, predicted, np.arange(10_000) // 2, np.full(200, 25.0))
    assert time.process_time() - began < 8  # about one, on a machine that has nothing else to do


def test_intervals_cover_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 test sets of 240 images in 4 classes, many of them copies; the whole is `benchmarks/honesty.py`."""
    monkeypatch.setattr("pipeline.evaluate.metrics._areas", lambda *_: {})  # slow, and no interval
    random = np.random.default_rng(0)
    margin, sets = 3.0, 200

    def answers(truth: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return softmax(noise + margin * np.eye(4)[truth])

    many = np.arange(200_000) % 4
    known = answers(many, random.gumbel(size=(len(many), 4)))
    right = float((known.argmax(axis=1) == many).mean())  # of every class alike, so of all these scores
    loss = float(-np.log(known[np.arange(len(many)), many]).mean())
    covered = defaultdict(list)
    for _ in range(sets):
        sizes = random.choice([1, 2, 4], 141, p=[0.6, 0.3, 0.1])
        clusters = np.repeat(np.arange(141), sizes)
        truth = np.repeat(random.integers(4, size=141), sizes)
        found = classification_scores(answers(truth, random.gumbel(size=(141, 4))[clusters]), truth, clusters,
                                      np.ones(4), 5)  # fmt: skip
        for name, known_value in (("top_1", right), ("macro_f1", right), ("balanced_accuracy", right),
                                  ("log_loss", loss)):  # fmt: skip
            covered[name].append(found.metrics[f"{name}_low"] <= known_value <= found.metrics[f"{name}_high"])
        for name, (low, high) in (("recall", found.recall_interval), ("precision", found.precision_interval)):
            covered[name] += ((low <= right) & (right <= high)).tolist()
    shares = {name: float(np.mean(hits)) for name, hits in covered.items()}
    assert {name: share for name, share in shares.items() if not 0.91 <= share <= 0.99} == {}
