"""What two runs said to the same images: scores as scikit-learn has them, classes, images, words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss

from pipeline.evaluate import paired
from pipeline.evaluate.compare import Answers, Comparison, compare_answers

CLASSES = ("ant", "bee", "cow", "doe")


def answers(probabilities: np.ndarray, truth: Sequence[str]) -> Answers:
    places = probabilities.argmax(axis=1)
    of_truth = probabilities[np.arange(len(truth)), [CLASSES.index(label) for label in truth]]
    return Answers([CLASSES[place] for place in places], probabilities.max(axis=1), of_truth)


def random_answers(count: int, seed: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    truth = random.choice(CLASSES, count, p=[0.4, 0.3, 0.2, 0.1])
    one_hot = np.eye(4)[[CLASSES.index(label) for label in truth]]
    a, b = (random.dirichlet(np.ones(4), count) + skill * one_hot for skill in (0.3, 0.5))
    return truth.tolist(), a / a.sum(axis=1, keepdims=True), b / b.sum(axis=1, keepdims=True)


def compare(right_a: str, right_b: str, clusters: Sequence[int] | None = None) -> Comparison:
    """Compares runs that are right ("x") or wrong (".") on images of the class ant."""
    sides = [
        Answers(
            ["ant" if mark == "x" else "bee" for mark in marks],
            np.full(len(marks), 0.8),
            np.array([0.8 if mark == "x" else 0.2 for mark in marks]),
        )
        for marks in (right_a, right_b)
    ]
    return compare_answers(["ant"] * len(right_a), *sides, range(len(right_a)) if clusters is None else clusters)


def test_scores_are_those_of_scikit_learn() -> None:
    truth, a, b = random_answers(150, 0)
    found = compare_answers(truth, answers(a, truth), answers(b, truth), range(150))
    for probabilities, side in ((a, "a"), (b, "b")):
        said = answers(probabilities, truth).predicted
        assert getattr(found.top_1, side) == pytest.approx(accuracy_score(truth, said))
        assert getattr(found.macro_f1, side) == pytest.approx(f1_score(truth, said, average="macro"))
        assert found.log_loss is not None
        assert getattr(found.log_loss, side) == pytest.approx(log_loss(truth, probabilities, labels=CLASSES))


def test_macro_f1_is_a_mean_over_the_classes_that_are_there() -> None:
    truth = ["ant", "ant", "bee", "bee"]
    sure = np.full(4, 0.9)
    a, b = Answers(["ant", "doe", "bee", "ant"], sure, sure), Answers(["ant", "ant", "bee", "cow"], sure, sure)
    found = compare_answers(truth, a, b, range(4))
    for side, said in (("a", a.predicted), ("b", b.predicted)):
        wanted = f1_score(truth, said, labels=["ant", "bee"], average="macro")
        assert getattr(found.macro_f1, side) == pytest.approx(wanted)


def test_intervals_of_macro_f1_and_log_loss_cover_what_a_large_sample_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paired, "RESAMPLES", 300)
    truth, a, b = random_answers(20_000, 1)
    whole = compare_answers(truth, answers(a, truth), answers(b, truth), range(20_000))
    assert whole.log_loss is not None
    hits = np.zeros(2)
    for part in range(60):
        rows = slice(80 * part, 80 * part + 80)
        found = compare_answers(truth[rows], answers(a[rows], truth[rows]), answers(b[rows], truth[rows]), range(80))
        assert found.log_loss is not None
        for place, (one, wanted) in enumerate(((found.macro_f1, whole.macro_f1), (found.log_loss, whole.log_loss))):
            hits[place] += one.low <= wanted.value <= one.high
            assert 0.05 < one.high - one.low < 0.6
    assert (hits >= 53).all()


def test_swapping_the_runs_turns_everything_round() -> None:
    truth, a, b = random_answers(120, 2)
    clusters = [row // 2 for row in range(120)]
    one = compare_answers(truth, answers(a, truth), answers(b, truth), clusters)
    other = compare_answers(truth, answers(b, truth), answers(a, truth), clusters)
    for name in ("top_1", "macro_f1", "log_loss"):
        left, right = getattr(one, name), getattr(other, name)
        assert (left.a, left.b) == (right.b, right.a)
        assert (left.low, left.high) == pytest.approx((-right.high, -right.low), abs=1e-7)
    assert [image.row for image in one.fixed] == [image.row for image in other.broken]
    assert (one.p_value, one.needed, one.clusters) == (other.p_value, other.needed, 60)
    assert [(c.fixed, c.recall_a) for c in one.classes] == [(c.broken, c.recall_b) for c in other.classes]
    outcomes = {"better": "worse", "worse": "better", "unknown": "unknown"}
    assert other.outcome == outcomes[one.outcome]


def test_copies_of_every_image_narrow_no_interval() -> None:
    truth, a, b = random_answers(60, 3)
    once = compare_answers(truth, answers(a, truth), answers(b, truth), range(60))
    truth, a, b = [label for label in truth for _ in range(3)], np.repeat(a, 3, axis=0), np.repeat(b, 3, axis=0)
    copied = compare_answers(truth, answers(a, truth), answers(b, truth), [row // 3 for row in range(180)])
    for name in ("top_1", "macro_f1", "log_loss"):
        left, right = getattr(once, name), getattr(copied, name)
        assert right.value == pytest.approx(left.value)
        assert right.high - right.low >= left.high - left.low - 1e-9
    blind = compare_answers(truth, answers(a, truth), answers(b, truth), range(180))
    assert blind.top_1.high - blind.top_1.low < 0.75 * (once.top_1.high - once.top_1.low)


def test_images_and_classes_that_changed() -> None:
    truth = ["ant", "ant", "ant", "bee", "bee"]
    a = Answers(["bee", "bee", "ant", "bee", "bee"], np.array([0.6, 0.9, 0.7, 0.8, 0.5]), np.zeros(5))
    b = Answers(["ant", "ant", "bee", "bee", "ant"], np.array([0.5, 0.6, 0.7, 0.8, 0.95]), np.zeros(5))
    found = compare_answers(truth, a, b, range(5))
    assert [(one.row, one.predicted_a, one.predicted_b) for one in found.fixed] == [
        (1, "bee", "ant"), (0, "bee", "ant")
    ]  # fmt: skip
    assert [(one.row, one.label, one.probability_a, one.probability_b) for one in found.broken] == [
        (4, "bee", 0.5, 0.95), (2, "ant", 0.7, 0.7)
    ]  # fmt: skip
    ant, bee = found.classes
    assert (ant.label, ant.images, ant.fixed, ant.broken) == ("ant", 3, 2, 1)
    assert (ant.recall_a, ant.recall_b) == pytest.approx((1 / 3, 2 / 3))
    assert (bee.recall_a, bee.recall_b, bee.fixed, bee.broken) == (1, 0.5, 0, 1)


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ("." * 20 + "x" * 60, "x" * 80, r"new is better than old, \+25.0 points, 95 % CI 1\d\.\d to 3\d\.\d"),
        ("x" * 80, "." * 20 + "x" * 60, r"new is worse than old, -25.0 points, 95 % CI -3\d\.\d to -1\d\.\d"),
        (
            "x" * 2 + "." * 5 + "x" * 53, "." * 2 + "x" * 58,
            r"cannot tell whether new is better than old: \+5.0 points, 95 % CI -\d\.\d to 1\d\.\d; "
            r"needs about \d\d0 more test images",
        ),
        (
            "xx..x", "..xxx",
            r"cannot tell whether new is better than old: \+0.0 points, .*; "
            "no number of test images would show a difference this small",
        ),
        ("x.x.", "x.x.", "the two answer alike: old and new gave the same answers to all 4 test images"),
    ],
)  # fmt: skip
def test_the_verdict_in_words(a: str, b: str, verdict: str) -> None:
    import re

    said = compare(a, b).verdict("old", "new")
    assert re.fullmatch(verdict, said), said


def test_a_difference_that_a_million_images_would_not_show_is_no_advice() -> None:
    count = 4000
    a, b = ["x"] * count, ["x"] * count
    a[:300], b[300:599] = ["."] * 300, ["."] * 299
    said = compare("".join(a), "".join(b))
    assert said.needed is not None
    assert said.needed > 1_000_000
    assert said.verdict("old", "new").endswith("no number of test images would show a difference this small")


def test_both_wrong_in_their_own_way_is_alike_too() -> None:
    sure = np.full(3, 0.5)
    found = compare_answers(
        ["ant"] * 3, Answers(["ant", "bee", "bee"], sure, sure), Answers(["ant", "bee", "cow"], sure, sure), range(3)
    )
    assert (found.outcome, found.p_value, found.needed) == ("alike", 1, None)
    assert found.verdict("old", "new").endswith("are right and wrong on the same of all 3 test images")
    assert found.top_1.high > 0.3  # three images that agree say little


def test_where_the_test_and_the_interval_part_the_interval_decides() -> None:
    cautious = compare("." * 5 + "x" * 35, "x" * 40)  # 5 to 0: p = 0.0625
    assert (cautious.outcome, cautious.p_value) == ("better", 0.0625)
    (note,) = cautious.notes()
    assert "does not see a difference (p = 0.062); it is the more cautious, and the interval decides" in note
    copies = compare("." * 10 + "x" * 30, "x" * 40, [0] * 5 + [1] * 5 + list(range(2, 32)))
    assert copies.outcome == "unknown"
    assert copies.p_value < 0.01
    first, second = copies.notes()
    assert "(32 clusters)" in first
    assert "sees a difference (p = 0.002); it takes copies for images of their own, and the interval decides" in second
    assert compare("x" * 40, "x" * 40).notes() == []


def test_needed_counts_copies_too() -> None:
    marks = "x" * 2 + "." * 5 + "x" * 53, "." * 2 + "x" * 58
    once = compare(*marks)
    twice = compare(*("".join(mark * 2 for mark in side) for side in marks), [row // 2 for row in range(120)])
    assert once.needed is not None
    assert twice.needed == pytest.approx(2 * once.needed, rel=0.02)


def test_a_class_that_a_run_does_not_know_leaves_no_log_loss() -> None:
    known = Answers(["ant", "ant"], np.array([0.9, 0.8]), np.array([0.9, 0.1]))
    unknown = Answers(["ant", "ant"], np.array([0.9, 1.0]), np.array([0.9, np.nan]))
    found = compare_answers(["ant", "bee"], known, unknown, range(2))
    assert found.log_loss is None
    assert found.document()["log_loss"] is None
    assert "no log loss" in found.notes()[-1]


def test_a_probability_of_zero_is_no_infinity() -> None:
    a = Answers(["ant", "bee"], np.ones(2), np.array([1.0, 0.0]))
    found = compare_answers(["ant", "ant"], a, a, range(2))
    assert found.log_loss is not None
    assert found.log_loss.a == pytest.approx(log_loss([0, 0], [[1, 0], [0, 1]], labels=[0, 1]))


def test_one_cluster_says_nothing_of_chance() -> None:
    with pytest.raises(ValueError, match="at least two clusters"):
        compare("x.", "xx", [0, 0])


def test_few_images_that_differ_leave_macro_f1_in_doubt_too() -> None:
    """Resampling alone would say that there is none where no image differs."""
    for a, b in (("x" * 20 + ".", "x" * 20 + "."), ("x" * 20 + ".", "x" * 21), ("x" * 21, "x" * 20 + ".")):
        found = compare(a, b)
        assert found.macro_f1.high - found.macro_f1.value >= found.top_1.high - found.top_1.value - 1e-9
        assert found.macro_f1.value - found.macro_f1.low >= found.top_1.value - found.top_1.low - 1e-9
