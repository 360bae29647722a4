"""95 % intervals of scores of images that come in clusters of near-duplicates. NumPy and SciPy; no TensorFlow.

Near-duplicates are not independent draws: where a network errs on one, it errs on its copies. Every interval here
therefore counts **effective images**. By Kish (Survey Sampling, 1965), N images of which those of a cluster have the
intra-cluster correlation rho are worth

    N / (1 + rho (w - 1)),    w = sum of squared cluster sizes / N, the size of the cluster of an average image

independent ones: N where every image is alone, the number of clusters where clusters are equally large and agree.
Wilson's interval with that number for N is what Saha, Miller and Wang (Int. J. Biostatistics 12(2), 2016) recommend.

The intervals say what other images *like these*, drawn at random, would give: class shares vary with the draw. Of
test sets with class counts fixed beforehand they are a little too wide, the more so the more classes differ.
`benchmarks/interval_coverage.py` measures how often they cover the truth.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.int64]

CONFIDENCE = 0.95

#: Of the bootstrap. The seed is no choice of the user's: the same predictions have the same interval.
REPLICATES, SEED = 2000, 0

#: Weights that are held at a time, 16 MiB of them.
_CHUNK = 2**21


class Interval(NamedTuple):
    """A 95 % interval; arrays hold one each."""

    low: Floats
    high: Floats


def wilson_interval(share: npt.ArrayLike, images: npt.ArrayLike) -> Interval:
    """Returns Wilson's score interval (JASA 22, 1927) of shares in [0, 1]; of no images it is [0, 1].

    Args:
        share: What was observed.
        images: Of how many effective images, need not be whole.
    """
    from scipy.special import ndtri

    z2 = ndtri((1 + CONFIDENCE) / 2) ** 2
    found, count = np.asarray(share, np.float64), np.asarray(images, np.float64)
    middle = count * found + z2 / 2
    half = np.sqrt(z2 * (count * found * (1 - found) + z2 / 4))
    # Rounding would leave the last bit of an end at 0 or 1 on the wrong side of the share.
    low = np.where(found == 0, 0.0, (middle - half) / (count + z2))
    high = np.where(found == 1, 1.0, (middle + half) / (count + z2))
    return Interval(np.clip(low, 0, 1), np.clip(high, 0, 1))


class Clusters:
    """Which images are copies of each other, within groups (the images of one class, say) that are looked at apart.

    Args:
        clusters: `(N,)` cluster ids, from 0.
        groups: `(N,)` group ids; without, all images are one group.
        count: How many groups there are; one without images has nothing of everything.

    Attributes:
        images: `(count,)` images of each group.
        size: `(count,)` the size of the cluster of an average image of the group: Kish's w, at least 1.
    """

    def __init__(self, clusters: Ids, groups: Ids | None = None, count: int = 1) -> None:
        self._count = count
        groups = np.zeros(len(clusters), np.int64) if groups is None else groups
        # A cell is what a cluster has in a group: those of differently labelled near-duplicates are two cells.
        cells, self._cell = np.unique(clusters.astype(np.int64) * count + groups, return_inverse=True)
        self._group = cells % count
        self._sizes = np.bincount(self._cell, minlength=len(cells)).astype(np.float64)
        self.images = self._by_group(self._sizes)
        self._squares = self._by_group(self._sizes**2)
        self.size = np.divide(self._squares, self.images, out=np.ones(count), where=self.images > 0)

    def agreement(self, values: npt.ArrayLike) -> float:
        """Returns rho, the correlation of values within clusters, in [0, 1]: one number for all groups.

        1 - D_within / D_between, the mean squared difference of two images of one cluster over that of two images of
        one group but different clusters. For hits and misses these are rates of disagreement, and rho is the estimate
        of Fleiss and Cuzick (Appl. Psych. Measurement 3, 1979), by pairs. It is taken from all groups together, since
        rho carries over from one to another far better than the few errors of a single class can tell it; and unlike
        the variance of cluster totals it does not depend on how large the few clusters with errors happen to be.
        Where nothing differs it cannot be known: 1, the cautious answer.
        """
        found = np.asarray(values, np.float64)
        found = found - found.mean()  # squares of large values would cancel
        within, pairs, between = self._differences(found)
        expected = float((between * pairs).sum())
        return float(np.clip(1 - within.sum() / expected, 0, 1)) if expected > 0 else 1.0

    def effective(self, agreement: float) -> Floats:
        """Returns `(count,)` how many independent images the images of each group are worth, at most their number."""
        return np.asarray(self.images / (1 + agreement * (self.size - 1)))

    def variance(self, values: npt.ArrayLike) -> Floats:
        """Returns `(count,)` the variance of values, from images of different clusters alone: copies do not lower it.

        NaN where a group has a single cluster.
        """
        found = np.asarray(values, np.float64)
        between = self._differences(found - found.mean())[2] / 2
        return np.where(self.images**2 > self._squares, between, np.nan)

    def _differences(self, values: Floats) -> tuple[Floats, Floats, Floats]:
        """Returns by group: squared differences within clusters, ordered pairs there, mean of it between clusters."""
        total, squares = self._by_cell(values), self._by_cell(values**2)
        within = self._by_group(np.maximum(2 * (self._sizes * squares - total**2), 0))
        all_pairs = 2 * (self.images * self._by_group(squares) - self._by_group(total) ** 2)
        others = self.images**2 - self._squares
        between = np.divide(np.maximum(all_pairs - within, 0), others, out=np.zeros(self._count), where=others > 0)
        return within, self._squares - self.images, between

    def _by_cell(self, values: Floats) -> Floats:
        return np.asarray(np.bincount(self._cell, values, len(self._sizes)), np.float64)

    def _by_group(self, of_cells: Floats) -> Floats:
        return np.asarray(np.bincount(self._group, of_cells, self._count), np.float64)


def effective_predictions(truth: Ids, predicted: Ids, clusters: Ids, count: int, agreement: float) -> Floats:
    """Returns `(count,)` how many independent images those are worth that are taken for each class, for its precision.

    Precision is a ratio of two random numbers, hits and predictions. Linearised (Kish, 1965, on ratio means), with
    precision p, its design effect is (1 - p) times the size of the cluster of an average hit plus p times that of an
    average miss. All hits of a cluster count, agreeing or not: they are there because the cluster is of this class.
    The misses of one class are too few to be measured: those of all classes are, and `agreement` is the least.

    Args:
        truth: `(N,)` class ids.
        predicted: `(N,)` class ids.
        clusters: `(N,)` cluster ids, from 0.
        count: Classes.
        agreement: Of hits, within true classes: those taken for one class agree by definition.
    """
    hit = truth == predicted
    taken, hits = Clusters(clusters, predicted, count), Clusters(clusters[hit], truth[hit], count)
    precision = np.divide(hits.images, taken.images, out=np.zeros(count), where=taken.images > 0)
    misses = Clusters(clusters[~hit], predicted[~hit], count)
    together = (misses.size * misses.images).sum() / max(misses.images.sum(), 1)
    together = np.maximum(together, 1 + agreement * (taken.size - 1))
    effect = (1 - precision) * hits.size + precision * together
    return np.asarray(taken.images / effect)


def mean_interval(values: npt.ArrayLike, clusters: Ids) -> Interval:
    """Returns the interval of the mean of any values, losses or the differences of two models on the same images.

    Student's t on the effective images, with the skewness taken out by Hall's cubic transformation (J. R. Statist. Soc.
    B 54, 1992): a few confident mistakes make most of a log loss, and intervals that are symmetric about its mean
    cover it in 84 to 93 % of test sets where few clusters hold the mistakes. NaN for fewer than two clusters.
    """
    from scipy.special import stdtrit

    found, images = np.asarray(values, np.float64), Clusters(clusters)
    variance = images.variance(found)[0]
    if not variance > 0:  # all equal, or a single cluster
        end = np.asarray(found.mean() if variance == 0 else np.nan)
        return Interval(end, end)
    count = images.effective(images.agreement(found))[0]
    quantile = stdtrit(max(count - 1, 1), (1 + CONFIDENCE) / 2)
    off = found - found.mean()
    tilt = float((off**3).mean() / (off**2).mean() ** 1.5 / np.sqrt(count))
    ends = [_unskewed(quantile, tilt), _unskewed(-quantile, tilt)]
    low, high = found.mean() - np.sqrt(variance / count) * np.array(ends)
    return Interval(np.asarray(low), np.asarray(high))


def _unskewed(quantile: float, tilt: float) -> float:
    """Returns the quantile of a skewed t statistic whose transform has `quantile`: Hall's inverse, in closed form."""
    if abs(tilt) < 1e-6:
        return quantile
    return float(3 / tilt * (np.cbrt(1 + tilt * (quantile - tilt / 6)) - 1))


def macro_intervals(truth: Ids, predicted: Ids, clusters: Ids, effective: Floats) -> tuple[Interval, Interval]:
    """Returns the intervals of macro-F1 and of balanced accuracy.

    The variance is that of a bootstrap of whole clusters. It goes into Wilson's interval as the number of images that
    a share with this variance would have, f (1 - f) / variance, as survey statistics do (Korn and Graubard, Survey
    Methodology 24, 1998). Percentiles of the same replicates are too low and too narrow at 20 images a class, BCa
    still is where few clusters hold all the errors, and both say [1, 1] when all is right.
    When chance has put the errors into small clusters the bootstrap sees too little variance; so the number is at most
    what the classes are worth, C^2 / sum of 1 / n_c.

    Args:
        truth: `(N,)` class ids.
        predicted: `(N,)` class ids.
        clusters: `(N,)` cluster ids, from 0.
        effective: `(C,)` effective images of each true class, the n_c.
    """
    counts = _counts(truth, predicted, clusters, len(effective))
    scores = macro_scores(*np.split(np.asarray(counts.sum(axis=0), np.float64).ravel(), 3))
    parts = [macro_scores(*np.split(weights @ counts, 3, axis=1)) for weights in _weights(counts.shape[0])]
    present = effective[effective > 0]
    most = len(present) ** 2 / (1 / present).sum()
    found = []
    for score, replicates in zip(scores, zip(*parts, strict=True), strict=True):
        variance, spread = np.concatenate(replicates).var(ddof=1), score * (1 - score)
        # No variance, but for rounding: all right, or all wrong, or one cluster, which is one image whatever is in it.
        known = spread > 0 and variance > 1e-20
        images = min(spread / variance, most) if known else min(most, counts.shape[0])
        found.append(wilson_interval(score, max(images, 1.0)))
    return found[0], found[1]


def macro_scores(hits: Floats, support: Floats, predicted: Floats) -> tuple[Floats, Floats]:
    """Returns macro-F1 and balanced accuracy, over the classes that have images, from `(..., C)` counts.

    Args:
        hits: Images of the class that are predicted as such.
        support: Images of the class.
        predicted: Images that are predicted to be of the class.
    """
    present = support > 0
    classes = present.sum(axis=-1)
    f1 = np.divide(2 * hits, support + predicted, out=np.zeros(hits.shape), where=present)
    recall = np.divide(hits, support, out=np.zeros(hits.shape), where=present)
    return f1.sum(axis=-1) / classes, recall.sum(axis=-1) / classes


def _counts(truth: Ids, predicted: Ids, clusters: Ids, classes: int) -> Any:
    """Returns a sparse `(clusters, 3 C)`: hits, support and predictions of each class, of which scores are made."""
    from scipy.sparse import csr_array

    hit = truth == predicted
    rows = np.concatenate([clusters[hit], clusters, clusters])
    columns = np.concatenate([truth[hit], classes + truth, 2 * classes + predicted])
    return csr_array((np.ones(len(rows)), (rows, columns)), shape=(int(clusters.max()) + 1, 3 * classes))


def _weights(clusters: int) -> Iterator[Floats]:
    """Yields `(some, clusters)` how often each cluster is in each replicate, `REPLICATES` of them in all."""
    random = np.random.default_rng(SEED)
    step = max(1, _CHUNK // clusters)
    for start in range(0, REPLICATES, step):
        rows = min(step, REPLICATES - start)
        drawn = random.integers(clusters, size=(rows, clusters)) + clusters * np.arange(rows)[:, np.newaxis]
        yield np.bincount(drawn.ravel(), minlength=rows * clusters).reshape(rows, clusters).astype(np.float64)
