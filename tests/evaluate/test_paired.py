"""The statistics of two classifiers on the same images, against computations of their own and simulations."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import t

from pipeline.evaluate.paired import (
    Difference,
    accuracy_difference,
    bootstrap_interval,
    design_effect,
    images_needed,
    mcnemar,
    tango_interval,
)

Z = 1.959963984540054

#: Draws whether A and B are right on each image, and the images' clusters.
Draw = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray, np.ndarray]]


def score_statistic(fixed: int, broken: int, count: int, difference: float) -> float:
    """The score test of a difference, its nuisance parameter found by a search for the largest likelihood."""

    def unlikely(worse: float) -> float:
        better, same = worse + difference, 1 - 2 * worse - difference
        chances = ((fixed, better), (broken, worse), (count - fixed - broken, same))
        return -sum(number * math.log(max(chance, 1e-300)) for number, chance in chances if number)

    lowest, highest = max(0.0, -difference), (1 - difference) / 2
    worse = minimize_scalar(unlikely, bounds=(lowest, highest), method="bounded", options={"xatol": 1e-12}).x
    return (fixed - broken - count * difference) / math.sqrt(count * (2 * worse + difference - difference**2))


@pytest.mark.parametrize(
    ("fixed", "broken", "count"), [(5, 2, 20), (12, 12, 90), (1, 0, 30), (0, 7, 44), (40, 3, 60), (2, 1, 1000)]
)
def test_the_interval_ends_where_a_score_test_begins_to_reject(fixed: int, broken: int, count: int) -> None:
    low, high = tango_interval(fixed, broken, count, Z)
    assert score_statistic(fixed, broken, count, low) == pytest.approx(Z, abs=1e-3)
    assert score_statistic(fixed, broken, count, high) == pytest.approx(-Z, abs=1e-3)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 60), st.floats(0.3, 4))
def test_the_interval_holds_the_difference_and_turns_with_the_runs(f: int, b: int, rest: int, quantile: float) -> None:
    count = f + b + rest
    if not count:
        return
    low, high = tango_interval(f, b, count, quantile)
    assert -1 <= low <= (f - b) / count <= high <= 1
    assert low < high
    assert tango_interval(b, f, count, quantile) == pytest.approx((-high, -low), abs=1e-7)


def test_images_that_all_agree_still_leave_doubt() -> None:
    low, high = tango_interval(0, 0, 15, Z)
    assert (low, high) == pytest.approx((-(Z**2) / (15 + Z**2), Z**2 / (15 + Z**2)), abs=1e-6)
    assert tango_interval(15, 0, 15, Z)[1] == 1
    assert 0 < tango_interval(15, 0, 15, Z)[0] < 1


def draws(sizes: list[int], fixed: float, broken: float, shared: float) -> Draw:
    """Clusters of the given sizes; an image does what its cluster does with chance `shared`, else what it likes."""
    clusters = np.repeat(np.arange(len(sizes)), sizes)

    def answers(random: np.random.Generator, count: int) -> np.ndarray:
        both = (1 - fixed - broken) / 2
        return random.choice(4, size=count, p=[fixed, broken, both, both])

    def draw(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        follows = random.random(len(clusters)) < shared
        kind = np.where(follows, answers(random, len(sizes))[clusters], answers(random, len(clusters)))
        return np.isin(kind, (1, 2)), np.isin(kind, (0, 2)), clusters

    return draw


def coverage(draw: Draw, truth: float, times: int = 1500) -> float:
    random = np.random.default_rng(7)
    found = [accuracy_difference(*draw(random)) for _ in range(times)]
    return float(np.mean([one.low - 1e-9 <= truth <= one.high + 1e-9 for one in found]))


SINGLE, PAIRS, MIXED, PATIENTS = [1] * 25, [1] * 40 + [2] * 40, [1] * 60 + [5] * 10, [10] * 30


@pytest.mark.parametrize(
    ("sizes", "fixed", "broken", "shared"),
    [
        ([1] * 15, 0.1, 0.02, 0), (SINGLE, 0.02, 0.02, 0), (SINGLE, 0.1, 0.1, 0), (SINGLE, 0.3, 0.1, 0),
        ([1] * 400, 0.1, 0.02, 0), (PAIRS, 0.1, 0.1, 1), (PAIRS, 0.15, 0.03, 0.5), (PAIRS, 0.03, 0.03, 1),
        (MIXED, 0.1, 0.1, 1), (MIXED, 0.15, 0.03, 1), (PATIENTS, 0.15, 0.03, 1), (PATIENTS, 0.1, 0.1, 0.4),
    ],
)  # fmt: skip
def test_the_interval_covers(sizes: list[int], fixed: float, broken: float, shared: float) -> None:
    """At least 93 % of the time; where few differ or clusters are few it is on the careful side."""
    assert coverage(draws(sizes, fixed, broken, shared), fixed - broken) >= 0.93


@pytest.mark.parametrize("sizes", [[1] * 100, [1] * 400])
def test_the_interval_is_no_wider_than_it_need_be(sizes: list[int]) -> None:
    assert coverage(draws(sizes, 0.1, 0.1, 0), 0) <= 0.975


def test_an_interval_that_knows_no_clusters_would_not_cover() -> None:
    draw = draws(PATIENTS, 0.1, 0.1, 1)

    def blind(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        a, b, clusters = draw(random)
        return a, b, np.arange(len(clusters))

    assert coverage(blind, 0, times=200) < 0.7


def width(one: Difference) -> float:
    return one.high - one.low


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(1, 4)), min_size=2, max_size=40), st.integers(2, 5))
def test_copies_never_narrow_the_interval(images: list[tuple[bool, bool, int]], times: int) -> None:
    """An image of k copies, each of which is then copied again."""
    sizes = np.array([size for *_, size in images])
    a, b = (np.repeat([image[side] for image in images], sizes) for side in (0, 1))
    clusters = np.repeat(np.arange(len(images)), sizes)
    once = accuracy_difference(a, b, clusters)
    more = accuracy_difference(*(np.repeat(column, times) for column in (a, b, clusters)))
    assert more.value == pytest.approx(once.value)
    assert width(more) >= width(once) - 1e-9


def test_whole_clusters_count_as_one_image_each() -> None:
    random = np.random.default_rng(3)
    gain = random.integers(-1, 2, 50)
    assert design_effect(np.repeat(gain, 6), np.repeat(np.arange(50), 6)) == pytest.approx(6)
    assert design_effect(gain, np.arange(50)) == pytest.approx(1)
    agreeing, random_ones = np.repeat(gain, 6), random.integers(-1, 2, 300)
    half = np.where(random.random(300) < 0.5, agreeing, random_ones)
    assert 1.3 < design_effect(half, np.repeat(np.arange(50), 6)) < 4.5


@pytest.mark.parametrize(("fixed", "broken"), [(0, 0), (3, 0), (5, 2), (2, 5), (9, 9)])
def test_mcnemar_is_the_sum_over_outcomes_no_likelier(fixed: int, broken: int) -> None:
    count = fixed + broken
    chances = [math.comb(count, k) / 2**count for k in range(count + 1)]
    assert mcnemar(fixed, broken) == pytest.approx(sum(p for p in chances if p <= chances[fixed] * (1 + 1e-9)))


def test_so_many_images_do_show_the_difference_four_times_of_five() -> None:
    """The difference and the share that differs are those of 60 images with 9 fixed and 3 broken."""
    needed = images_needed(9, 3, 60, 1.0)
    assert needed is not None
    draw, random = draws([1] * needed, 9 / 60, 3 / 60, 0), np.random.default_rng(1)
    shown = np.mean([accuracy_difference(*draw(random)).low > 0 for _ in range(400)])
    assert 0.74 < shown < 0.87
    assert images_needed(3, 9, 60, 1.0) == needed
    assert images_needed(9, 3, 60, 2.5) == pytest.approx(2.5 * needed, rel=0.01)
    assert images_needed(4, 4, 60, 1.0) is None


def test_the_bootstrap_of_a_mean_is_the_interval_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(1, 2, 200)

    def mean(weights: np.ndarray) -> np.ndarray:
        return weights @ values / weights.sum(axis=1)

    low, high = bootstrap_interval(mean, np.arange(200))
    half = 1.97 * values.std(ddof=1) / math.sqrt(200)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.04)
    assert bootstrap_interval(mean, np.arange(200)) == (low, high)
    assert bootstrap_interval(mean, np.arange(200), seed=1) != (low, high)
    values = np.repeat(values, 3)
    assert bootstrap_interval(mean, np.repeat(np.arange(200), 3)) == pytest.approx((low, high))


def test_the_bootstrap_draws_clusters_whole() -> None:
    seen: list[np.ndarray] = []

    def keep(weights: np.ndarray) -> np.ndarray:
        seen.append(weights)
        return weights[:, 0].astype(float)

    clusters = np.array([0, 1, 1, 2, 2, 2])
    bootstrap_interval(keep, clusters)
    weights = np.concatenate(seen)
    assert (weights[:, 1] == weights[:, 2]).all()
    assert (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, 0] + weights[:, 1] + weights[:, 3] == 3).all()


def test_the_bootstrap_of_few_is_as_wide_as_students_interval() -> None:
    """Plain percentiles of eight values would be a quarter too short."""
    for seed in range(5):
        values = np.random.default_rng(seed).normal(0, 1, 8)
        low, high = bootstrap_interval(lambda weights, v=values: weights @ v / weights.sum(axis=1), np.arange(8))
        assert high - low == pytest.approx(2 * t.ppf(0.975, 7) * values.std(ddof=1) / math.sqrt(8), rel=0.15)
