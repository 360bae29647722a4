"""The linear probe: what it can learn, what it must not have seen, that it says the same twice."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from pipeline.evaluate import probe
from pipeline.evaluate.probe import Probe, assign_folds, fit_probe, out_of_fold_probabilities


def blobs(count: int, num_classes: int, size: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns features `(count x num_classes, size)` round one centre a class, and ids, in random order."""
    random = np.random.default_rng(seed)
    ids = random.permutation(np.repeat(np.arange(num_classes), count))
    centres = random.normal(0, 1, (num_classes, size))
    return (centres[ids] + random.normal(0, 0.4, (len(ids), size))).astype(np.float32), ids


def each(ids: np.ndarray) -> list[str]:
    """Returns a cluster of its own for each image."""
    return [f"c{row:04d}" for row in range(len(ids))]


@pytest.mark.parametrize("num_classes", [2, 3, 40])
def test_it_learns_what_can_be_read_off_by_a_linear_map(num_classes: int) -> None:
    features, ids = blobs(12, num_classes, size=32)
    half = len(ids) // 2
    fitted = fit_probe(features[:half], ids[:half], num_classes)
    answers = fitted.probabilities(features[half:])
    assert answers.shape == (len(ids) - half, num_classes)
    assert answers.sum(axis=1) == pytest.approx(1)
    assert (answers.argmax(axis=1) == ids[half:]).mean() > 0.9


@pytest.mark.parametrize("num_classes", [2, 4])
def test_it_is_the_regression_of_scikit_learn(num_classes: int) -> None:
    features, ids = blobs(20, num_classes)
    centred = features - features.mean(axis=0)
    rows = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    wanted = LogisticRegression(C=probe.C, max_iter=5000, tol=1e-8).fit(rows, ids).predict_proba(rows)
    assert fit_probe(features, ids, num_classes).probabilities(features) == pytest.approx(wanted, abs=0.02)


def test_the_scale_of_features_does_not_count() -> None:
    features, ids = blobs(10, 3)
    small = fit_probe(features, ids, 3).probabilities(features)
    assert fit_probe(1000 * features, ids, 3).probabilities(1000 * features) == pytest.approx(small, abs=1e-3)


def test_a_class_that_was_not_seen_has_probability_0_and_a_single_one_1() -> None:
    features, ids = blobs(8, 4)
    seen = ids != 2
    answers = fit_probe(features[seen], ids[seen], 5).probabilities(features)
    assert (answers[:, [2, 4]] == 0).all()
    assert (answers[:, [0, 1, 3]] > 0).all()
    only = fit_probe(features[ids == 1], ids[ids == 1], 3).probabilities(features)
    assert (only == [0, 1, 0]).all()


def test_a_row_of_equal_features_is_no_division_by_zero() -> None:
    answers = fit_probe(np.ones((6, 3), np.float32), [0, 1, 0, 1, 0, 1], 2).probabilities(np.ones((1, 3)))
    assert answers == pytest.approx(0.5, abs=1e-3)


def test_of_very_many_images_it_sees_a_draw_in_which_no_class_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "MOST", 60)
    monkeypatch.setattr(probe, "KEPT", 3)
    ids = np.array([0] * 500 + [1] * 500 + [2] * 4)
    drawn = probe._draw(ids, 0)
    assert len(drawn) == len(set(drawn.tolist())) == 60
    assert (ids[drawn] == 2).sum() >= 3
    assert min((ids[drawn] == 0).sum(), (ids[drawn] == 1).sum()) > 10
    assert (probe._draw(ids, 0) == drawn).all()
    assert (probe._draw(ids, 1) != drawn).any()
    assert (probe._draw(ids[:60], 0) == np.arange(60)).all()


# Folds.


def test_a_cluster_is_in_one_fold_and_classes_are_spread() -> None:
    random = np.random.default_rng(3)
    ids = np.repeat(np.arange(4), 50)
    clusters = [f"{label}-{random.integers(0, 20)}" for label in ids]
    side = assign_folds(ids, clusters, 5, 0)
    assert all(len({side[row] for row in range(200) if clusters[row] == name}) == 1 for name in set(clusters))
    for label in range(4):
        counts = np.bincount(side[ids == label], minlength=5)
        assert counts.max() - counts.min() <= 4  # clusters of two or three


def test_folds_depend_on_clusters_and_seed_and_not_on_the_order() -> None:
    ids, order = np.repeat(np.arange(3), 12), np.random.default_rng(0).permutation(36)
    clusters = each(ids)
    side = assign_folds(ids, clusters, 5, 0)
    assert (assign_folds(ids[order], [clusters[row] for row in order], 5, 0) == side[order]).all()
    assert (assign_folds(ids, clusters, 5, 0) == side).all()
    assert (assign_folds(ids, clusters, 5, 1) != side).any()


def test_a_class_of_two_clusters_is_in_two_folds() -> None:
    ids = np.array([0] * 20 + [1, 1])
    for seed in range(10):
        side = assign_folds(ids, each(ids), 5, seed)
        assert side[20] != side[21]


def test_a_copy_under_the_same_wrong_label_does_not_vouch_for_it() -> None:
    """Six copies of one image, all under a wrong label: only where they share a fold does the probe disagree."""
    features, ids = blobs(20, 2)
    row = int(np.flatnonzero(ids == 0)[0])
    copies = np.repeat(features[row : row + 1], 6, axis=0)
    all_features = np.vstack([features, copies])
    labels = np.concatenate([ids, np.ones(6, int)])
    apart = each(labels)
    together = [*apart[:40], *[apart[row]] * 6]
    assert out_of_fold_probabilities(all_features, labels, together)[40:, 1].max() < 0.4
    assert out_of_fold_probabilities(all_features, labels, apart)[40:, 1].min() > 0.4


def test_no_image_has_been_seen_by_the_probe_that_judges_it(monkeypatch: pytest.MonkeyPatch) -> None:
    features, ids = blobs(10, 3)
    features[:, 0] = np.arange(30)  # names the row
    seen: list[set[float]] = []

    def spy(fitted: np.ndarray, *rest: object, **more: object) -> Probe:
        seen.append(set(fitted[:, 0].tolist()))
        return fit_probe(fitted, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(probe, "fit_probe", spy)
    side = assign_folds(ids, each(ids), 5, 0)
    out_of_fold_probabilities(features, ids, each(ids))
    assert [set(range(30)) - known for known in seen] == [set(np.flatnonzero(side == fold)) for fold in range(5)]


def test_nothing_is_said_of_a_class_that_is_in_one_cluster_only() -> None:
    features, ids = blobs(10, 3)
    clusters = np.array(each(ids), dtype=object)
    clusters[ids == 1] = "burst"
    answers = out_of_fold_probabilities(features, ids, clusters.tolist())
    assert np.isnan(answers[ids == 1]).all()
    assert np.isfinite(answers[ids != 1]).all()
    alone = out_of_fold_probabilities(features, ids, ["one"] * 30)
    assert np.isnan(alone).all()


def test_the_same_twice_and_another_seed_is_another_draw() -> None:
    features, ids = blobs(10, 3)
    first = out_of_fold_probabilities(features, ids, each(ids))
    assert (out_of_fold_probabilities(features, ids, each(ids)) == first).all()
    assert (out_of_fold_probabilities(features, ids, each(ids), seed=1) != first).any()
