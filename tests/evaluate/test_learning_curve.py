"""The curve on features whose Bayes rate is known, its nested parts, and the advice that is drawn from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.evaluate import learning_curve as module
from pipeline.evaluate.advice import Evidence, advise
from pipeline.evaluate.learning_curve import SHARES, LearningCurve, learning_curve, learning_curve_chapter
from pipeline.evaluate.probe import Probe
from pipeline.progress import Silent


def gaussians(count: int, seed: int, spread: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    ids = np.arange(count) % 4
    centres = np.random.default_rng(99).normal(size=(4, 40))
    return (centres[ids] + random.normal(0, spread, (count, 40))).astype(np.float32), ids


def test_it_rises_to_what_all_images_give() -> None:
    (train, ids), (test, test_ids) = gaussians(400, 0), gaussians(1000, 1)
    curve = learning_curve(train, ids, test, test_ids, 4, 0, Silent())
    assert curve.images.tolist() == [round(share * 400) for share in SHARES]
    assert curve.accuracy[-1] > curve.accuracy[0] + 0.1
    assert curve.gain_by_doubling > 0.01
    assert (curve.low <= curve.accuracy).all()
    assert (curve.accuracy <= curve.high).all()
    again = learning_curve(train, ids, test, test_ids, 4, 0, Silent())
    np.testing.assert_array_equal(curve.accuracy, again.accuracy)


def test_parts_are_nested_and_have_every_class(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []

    def spy(features: np.ndarray, ids: np.ndarray, num_classes: int) -> Probe:
        seen.append(set(features[:, 0].astype(int).tolist()))
        assert set(ids.tolist()) == {0, 1}
        return Probe(np.zeros(1, np.float32), np.zeros((1, 2), np.float32), np.zeros(2, np.float32))

    monkeypatch.setattr(module, "fit_probe", spy)
    features = np.arange(53, dtype=np.float32)[:, np.newaxis]
    ids = (np.arange(53) < 3).astype(int)  # three of one class
    learning_curve(features, ids, features, ids, 2, 0, Silent())
    repeats = module.REPEATS
    first = seen[0:-1:repeats]  # of the first repeat
    assert all(small < large for small, large in zip(first, [*first[1:], seen[-1]], strict=True))
    assert seen[0] != seen[1]
    assert len(seen[-1]) == 53
    assert len(seen) == (len(SHARES) - 1) * repeats + 1


def test_the_gain_is_the_slope_over_doublings() -> None:
    images = np.array([10, 20, 40, 80, 160])
    accuracy = 0.5 + 0.05 * np.log2(images / 10)
    assert LearningCurve(images, accuracy, accuracy, accuracy, 160).gain_by_doubling == pytest.approx(0.05)


CURVE = LearningCurve(np.array([50, 100]), np.array([0.8, 0.8]), np.array([0.8, 0.8]), np.array([0.8, 0.8]), 100)
RISING = replace(CURVE, accuracy=np.array([0.8, 0.85]))
EVIDENCE = Evidence(0.9, 0.88, 0.92, 900, 4000, 0, 5800, CURVE, True, True, [("cat", 0.7), ("dog", 0.9)])


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({}, ["good enough"]),
        ({"wrong_labels": 200}, ["better labels"]),
        ({"wrong_labels": 20}, ["good enough"]),
        ({"wrong_labels": None, "curve": None}, ["good enough"]),
        ({"curve": RISING}, ["more data"]),
        ({"curve": RISING, "score": 0.99}, ["good enough"]),
        ({"unfrozen": False}, ["unfreeze more"]),
        ({"wrong_labels": None, "curve": None, "pretrained": False}, ["pretrained weights"]),
        ({"wrong_labels": None, "curve": None, "pretrained": False, "score": 0.99}, ["good enough"]),
        ({"unfrozen": False, "curve": RISING}, ["more data"]),
        ({"unfrozen": False, "curve": replace(RISING, of=900)}, ["unfreeze more"]),
        ({"curve": replace(RISING, of=900)}, ["good enough"]),
        ({"low": 0.8, "high": 0.95}, ["more test images"]),
        ({"wrong_labels": 200, "curve": RISING, "low": 0.8}, ["better labels", "more data", "more test images"]),
    ],
)
def test_advice_follows_its_evidence(changes: dict[str, object], advice: list[str]) -> None:
    chapter = advise(replace(EVIDENCE, **changes))  # type: ignore[arg-type]
    assert chapter.document["advice"] == advice
    assert chapter.finding.lower().startswith(advice[0])


def test_advice_tells_the_numbers() -> None:
    assert (
        "twice the 4,000 training images would bring about 5.0 points"
        in advise(replace(EVIDENCE, curve=RISING)).finding
    )
    assert "'cat' (0.70)" in advise(replace(EVIDENCE, curve=RISING)).finding
    assert "About 200 of 5,800 labels" in advise(replace(EVIDENCE, wrong_labels=200)).finding
    assert "to 10 points either way" in advise(replace(EVIDENCE, low=0.8, high=1.0)).finding


def test_the_chapter_holds_the_baselines() -> None:
    chapter = learning_curve_chapter(RISING, 0.7, 0.9)
    assert chapter.metrics == {
        "test/neighbour_baseline": 0.7, "test/probe_baseline": 0.85, "test/gain_by_doubling": pytest.approx(0.05)
    }  # fmt: skip
    assert chapter.finding.startswith("Twice the training images would bring about +5.0 points")
    part = learning_curve_chapter(replace(RISING, of=900), 0.7, 0.9)
    assert part.finding.startswith("At 100 of the 900 training images, twice as many bring +5.0 points")


def test_of_many_images_a_part_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    (train, ids), (test, test_ids) = gaussians(400, 0), gaussians(100, 1)
    monkeypatch.setattr(module, "MANY", 399)
    monkeypatch.setattr(module, "MOST_IMAGES", 200)
    curve = learning_curve(train, ids, test, test_ids, 4, 0, Silent())
    assert curve.images.tolist() == [round(share * 200) for share in SHARES]
    assert not curve.whole
    np.testing.assert_array_equal(curve.low, curve.high)
