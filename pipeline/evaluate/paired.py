"""Two classifiers on the same images: how far apart they are, and how sure that is. TensorFlow is not loaded.

Images of a cluster (near-duplicates, or what a source groups) are not independent of each other: the intervals here
count what they are worth together, and a copy of an image narrows none of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
POWER = 0.8

#: Resamples of a bootstrap: the ends of its interval then move by some 2 % of its width from seed to seed. Fewer do for
#: test sets so large that the time counts and the interval is short anyway.
RESAMPLES, FEWEST_RESAMPLES = 2000, 500
_DRAWS_IN_ALL = 20_000_000

_BESIDE = 1e-9

#: Weights held in memory at once.
_WEIGHTS_AT_ONCE = 10_000_000


@dataclass(frozen=True)
class Difference:
    """A score of two runs on the same images.

    Attributes:
        a, b: The score of each.
        low, high: The 95 % interval of `b - a`.
    """

    a: float
    b: float
    low: float
    high: float

    @property
    def value(self) -> float:
        """What the second run has more than the first."""
        return self.b - self.a

    def document(self) -> dict[str, float]:
        """Returns the numbers for JSON."""
        return {"a": self.a, "b": self.b, "difference": self.value, "low": self.low, "high": self.high}


def accuracy_difference(right_a: np.ndarray, right_b: np.ndarray, clusters: np.ndarray) -> Difference:
    """Returns the accuracies and the interval of their difference.

    Tango's score interval, which holds what it promises with few images and few that differ, on as many images as
    the clustered ones are worth. With clusters, whose worth is an estimate, Student's t takes the normal's place.

    Args:
        right_a: `(N,)` bool, whether the first run is right.
        right_b: `(N,)` bool, whether the second is.
        clusters: `(N,)` ints from 0, at least two different ones.
    """
    from scipy.stats import norm, t

    gain = right_b.astype(np.int64) - right_a
    count, num_clusters = len(gain), int(clusters.max()) + 1
    effect = design_effect(gain, clusters)
    tail = 0.5 + LEVEL / 2
    quantile = norm.ppf(tail) if count == num_clusters else t.ppf(tail, num_clusters - 1)
    fixed, broken = int((gain > 0).sum()), int((gain < 0).sum())
    low, high = tango_interval(fixed / effect, broken / effect, count / effect, float(quantile))
    return Difference(float(right_a.mean()), float(right_b.mean()), low, high)


def design_effect(gain: np.ndarray, clusters: np.ndarray) -> float:
    """Returns how many clustered images are worth one independent image for the mean of `gain`, at least 1.

    The variance that respects clusters over the one that does not (Kish, Survey Sampling, 1965), after one more cluster
    of mean size was added that differs as a whole: with few images that differ, that none of them has copies says
    little about the next.

    Args:
        gain: `(N,)` in {-1, 0, 1}.
        clusters: `(N,)` ints from 0.
    """
    sizes = np.bincount(clusters)
    rest = gain - gain.mean()
    of_clusters = np.bincount(clusters, weights=rest)
    whole = (sizes**2).sum() / sizes.sum()  # the effect where all images of a cluster do the same
    added = sizes.mean()
    return max(1.0, float((of_clusters @ of_clusters + whole * added) / (rest @ rest + added)))


def tango_interval(fixed: float, broken: float, count: float, quantile: float) -> tuple[float, float]:
    """Returns the score interval of a difference of paired proportions, `(fixed - broken) / count`, in [-1, 1].

    T. Tango, Equivalence test and confidence interval for the difference in proportions for the paired-sample design,
    Statistics in Medicine 17 (1998): the differences that a score test does not reject. The counts may be fractions.
    """

    def excess(difference: float, sign: int) -> float:
        deviation = fixed - broken - count * difference
        return deviation - sign * quantile * math.sqrt(count * _variance(difference, fixed, broken, count))

    found = (fixed - broken) / count
    # Beside `found`, not at it: where no image differs the variance is 0 there, and both functions are too.
    low = _crossing(lambda difference: excess(difference, 1), -1.0, found - _BESIDE)
    high = _crossing(lambda difference: excess(difference, -1), found + _BESIDE, 1.0)
    return low, high


def _variance(difference: float, fixed: float, broken: float, count: float) -> float:
    """Returns the variance of one image's gain under a difference, the other parameter as likely as it can be."""
    linear = -fixed - broken + (2 * count - fixed + broken) * difference
    constant = -broken * difference * (1 - difference)
    root = math.sqrt(max(0.0, linear**2 - 8 * count * constant))
    worse = (root - linear) / (4 * count)  # the likeliest share of images that only the first is right on
    return max(0.0, 2 * worse + difference * (1 - difference))


def _crossing(function: Callable[[float], float], low: float, high: float) -> float:
    """Returns where a function that falls from `low` to `high` crosses zero, in [-1, 1]; the end where it does not."""
    from scipy.optimize import brentq

    if low <= -1 and (high <= -1 or function(low) <= 0):
        return -1.0
    if high >= 1 and (low >= 1 or function(high) >= 0):
        return 1.0
    return float(brentq(function, low, high, xtol=1e-10))


def mcnemar(fixed: int, broken: int) -> float:
    """Returns the two-sided p-value of McNemar's exact test, 1 where no image differs; each image counts as its own."""
    from scipy.stats import binomtest

    return float(binomtest(fixed, fixed + broken, 0.5).pvalue) if fixed + broken else 1.0


def images_needed(fixed: int, broken: int, count: int, effect: float) -> int | None:
    """Returns how many test images would show the found difference four times of five; None where there is none.

    R. J. Connor, Sample size for testing differences in proportions for the paired-sample design, Biometrics 43
    (1987), for a share of images that differ, and copies, as they were found.
    """
    from scipy.stats import norm

    differ, difference = (fixed + broken) / count, (fixed - broken) / count
    if not difference:
        return None
    alpha, beta = norm.ppf(0.5 + LEVEL / 2), norm.ppf(POWER)
    spread = alpha * math.sqrt(differ) + beta * math.sqrt(max(0.0, differ - difference**2))
    return math.ceil(effect * (spread / difference) ** 2)


def bootstrap_interval(
    score: Callable[[np.ndarray], np.ndarray], clusters: np.ndarray, seed: int = 0
) -> tuple[float, float]:
    """Returns the 95 % percentile interval of a score under resampling of clusters, the same one for the same seed.

    The percentiles are expanded (T. C. Hesterberg, What teachers should know about the bootstrap, The American
    Statistician 69, 2015), since with few clusters those at 2.5 and 97.5 lie too close together.

    Args:
        score: Takes how often each image is drawn, `(R, N)`, and returns R scores.
        clusters: `(N,)` ints from 0, at least two different ones.
        seed: Of the resampling.
    """
    from scipy.stats import norm, t

    num_clusters = int(clusters.max()) + 1
    tail = 0.5 - LEVEL / 2
    outer = norm.cdf(math.sqrt(num_clusters / (num_clusters - 1)) * t.ppf(tail, num_clusters - 1))
    scores = np.concatenate([score(weights) for weights in _draws(clusters, num_clusters, seed)])
    low, high = np.quantile(scores, [outer, 1 - outer])
    return float(low), float(high)


def _draws(clusters: np.ndarray, num_clusters: int, seed: int) -> Iterator[np.ndarray]:
    """Yields how often each image is drawn, some resamples at a time."""
    random = np.random.default_rng(seed)
    step = max(1, _WEIGHTS_AT_ONCE // len(clusters))
    count = min(RESAMPLES, max(FEWEST_RESAMPLES, _DRAWS_IN_ALL // len(clusters)))
    even = np.full(num_clusters, 1 / num_clusters)
    for begin in range(0, count, step):
        yield random.multinomial(num_clusters, even, size=min(step, count - begin))[:, clusters]
