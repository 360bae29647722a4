"""A linear probe: how much of the classes can be read off frozen features by a linear map. No TensorFlow."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.evaluate.metrics import softmax

#: Inverse strength of the L2 penalty, for rows of length one. Between what found planted label flips best on 164 photos
#: (10) and on 5,000 Fashion-MNIST images (1); at 5 both are within 0.02 of their best average precision.
C = 5.0

#: Steps of L-BFGS at the most, and the slope at which it ends before, over the number of classes: the more there are,
#: the less each row moves a weight. The ranking has settled long before the last digits of the weights have.
STEPS, SLOPE = 100, 1e-3

#: A fit sees no more images than these, drawn by the seed: the evaluation of a large data set has six of them and a
#: learning curve to make in a minute.
MOST = 6_000

#: Of each class so many are kept in any draw, so that rare ones do not vanish.
KEPT = 20

#: Multiply-adds of a step, from which on it is worth more than one thread. Below, threads wait for each other: on a
#: busy machine five fits of 131 images took 7 s on two threads and 0.1 s on one.
ALONE = 100_000_000

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Probe:
    """A fitted probe.

    Attributes:
        mean: `(D,)` float32, taken off each row before it is scaled to length one.
        weights: `(D, C)` float32.
        bias: `(C,)` float32, -inf for a class that no image of the fit had.
    """

    mean: Floats
    weights: Floats
    bias: Floats

    def probabilities(self, features: np.ndarray) -> npt.NDArray[np.float64]:
        """Returns the probabilities of `(N, D)` features, `(N, C)` float64 of sum 1; 0 for a class it never saw."""
        return softmax(_of_length_one(features, self.mean) @ self.weights + self.bias)


def fit_probe(features: np.ndarray, ids: npt.ArrayLike, num_classes: int, *, c: float = C, seed: int = 0) -> Probe:
    """Returns a multinomial logistic regression on features, centred and scaled to length one.

    The same rows and seed give the same probe. Of more than `MOST` rows it sees a draw by the seed.

    Args:
        features: `(N, D)`, N at least 1.
        ids: `(N,)` class ids in [0, num_classes). Not all classes need be there; a single one has probability 1.
        num_classes: C, the number of columns of its answers.
        c: Inverse strength of the penalty.
        seed: Of the draw.
    """
    labels = np.asarray(ids, np.int64)
    rows = _draw(labels, seed)
    chosen, labels = np.asarray(features[rows], np.float32), labels[rows]
    mean = chosen.mean(axis=0, dtype=np.float64).astype(np.float32)
    weights = np.zeros((chosen.shape[1], num_classes), np.float32)
    bias = np.full(num_classes, -np.inf, np.float32)
    classes = np.unique(labels)
    bias[classes] = 0
    if len(classes) > 1:
        weights[:, classes], bias[classes] = _regression(_of_length_one(chosen, mean), labels, c)
    return Probe(mean, weights, bias)


def out_of_fold_probabilities(
    features: np.ndarray, class_ids: npt.ArrayLike, clusters: Sequence[str], folds: int = 5, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Returns what probes that saw neither an image nor its cluster say of it, `(N, C)` float64; C is the last id + 1.

    A near-copy under the same wrong label would vouch for it, so whole clusters are held out. A row is NaN where the
    image's class is in no other cluster: nothing is left to judge its label by. Each fold is fitted from zero, not from
    the weights of all images, which would remember the labels that are to be judged.

    Args:
        features: `(N, D)`.
        class_ids: `(N,)`, the labels that are doubted.
        clusters: Of each image: images that share one are never on both sides.
        folds: At least 2; no more than there are clusters.
        seed: Which clusters share a fold, and which rows are drawn where there are very many.
    """
    ids = np.asarray(class_ids, np.int64)
    side, num_classes = assign_folds(ids, clusters, folds, seed), int(ids.max()) + 1
    found = np.full((len(ids), num_classes), np.nan)
    for fold in np.unique(side):
        held = side == fold
        if held.all():  # all is one cluster
            break
        answers = fit_probe(features[~held], ids[~held], num_classes, seed=seed).probabilities(features[held])
        answers[~np.isin(ids[held], ids[~held])] = np.nan
        found[held] = answers
    return found


def assign_folds(
    ids: npt.NDArray[np.int64], clusters: Sequence[str], folds: int = 5, seed: int = 0
) -> npt.NDArray[np.int64]:
    """Returns a fold in [0, folds) for each image: whole clusters, each class spread as evenly as they allow.

    It depends on clusters, labels and the seed, not on the order of the images. Large clusters go first, each to the
    fold that has the fewest images of its classes.
    """
    names, of_image = np.unique(np.asarray(clusters), return_inverse=True)
    classes, places = np.unique(ids, return_inverse=True)
    members = np.bincount(of_image, minlength=len(names))
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-members[order], kind="stable")]
    by_cluster = np.split(places[np.argsort(of_image, kind="stable")], np.cumsum(members)[:-1])
    held, side = np.zeros((len(classes), folds), np.int64), np.zeros(len(names), np.int64)
    for cluster in order:
        labels = by_cluster[cluster]
        fold = int(np.lexsort((held.sum(axis=0), held[labels].sum(axis=0)))[0])
        side[cluster] = fold
        np.add.at(held, (labels, fold), 1)
    return side[of_image]


def _draw(ids: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """Returns the rows that a fit sees, in their order: all, or `MOST` with some of each class."""
    if len(ids) <= MOST:
        return np.arange(len(ids))
    shuffled = np.random.default_rng(seed).permutation(len(ids))
    by_class = shuffled[np.argsort(ids[shuffled], kind="stable")]
    first = np.searchsorted(ids[by_class], ids[by_class])  # where a row's class begins
    sure = by_class[np.arange(len(ids)) - first < KEPT]
    rest = shuffled[~np.isin(shuffled, sure)]
    return np.sort(np.concatenate([sure, rest[: max(0, MOST - len(sure))]]))


def _of_length_one(features: np.ndarray, mean: Floats) -> Floats:
    """Returns centred rows of length one, float32: a row's scale, which differs between networks, does not count."""
    rows = np.asarray(features, np.float32) - mean
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, lengths, out=rows, where=lengths > 0)


def _regression(rows: Floats, ids: npt.NDArray[np.int64], c: float) -> tuple[Floats, Floats]:
    """Returns weights `(D, K)` and bias `(K,)` for the K > 1 classes that are there, in their order."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    num_classes = len(np.unique(ids))
    threads = 1 if rows.size * num_classes < ALONE else None
    with threadpool_limits(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the steps are capped on purpose
        fitted = LogisticRegression(C=c, max_iter=STEPS, tol=SLOPE / num_classes).fit(rows, ids)
    weights, bias = fitted.coef_.T, fitted.intercept_
    if weights.shape[1] == 1:  # of two classes it keeps the second's lead over the first
        weights, bias = np.hstack([np.zeros_like(weights), weights]), np.array([0.0, bias[0]])
    return weights.astype(np.float32), bias.astype(np.float32)
