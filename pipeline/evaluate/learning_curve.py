"""What more images would bring: a linear probe on frozen features, fitted on growing parts of train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.evaluate.probe import fit_probe
from pipeline.pictures.scores import Series, curve_figure
from pipeline.progress import Progress
from pipeline.tasks.base import Chapter, Picture

SHARES = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)

#: Draws of each part; a part of many images hardly depends on which they are.
REPEATS, MANY = 3, 2_000

#: Training images that take part, at most: the probe takes a second for some thousand.
MOST_IMAGES = 6_000


@dataclass(frozen=True)
class LearningCurve:
    """Test accuracy of the probe against the number of training images.

    Attributes:
        images: Of train, `(S,)`, rising.
        accuracy: `(S,)`, the mean over repeats that draw other images.
        low, high: `(S,)`, the least and the greatest of them.
        of: How many training images there are; the curve may end before.
    """

    images: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray
    of: int

    @property
    def whole(self) -> bool:
        """Whether the curve goes on to all training images."""
        return bool(self.images[-1] == self.of)

    @property
    def gain_by_doubling(self) -> float:
        """What twice as many images bring, by the slope of the curve's second half over log2 of the images."""
        half = self.images >= self.images[-1] / 2
        half[-2:] = True
        return float(np.polyfit(np.log2(self.images[half]), self.accuracy[half], 1)[0])


def learning_curve(
    train: np.ndarray, train_ids: np.ndarray, test: np.ndarray, test_ids: np.ndarray, num_classes: int, seed: int,
    progress: Progress,
) -> LearningCurve:  # fmt: skip
    """Returns the curve.

    Each part has its share of every class, at least one image of it, and the next larger part contains it.

    Args:
        train: `(N, D)` pooled features.
        train_ids: `(N,)` class ids.
        test: `(M, D)`.
        test_ids: `(M,)`.
        num_classes: Classes there are.
        seed: Of the draw.
        progress: Where to show how far it is.
    """
    repeats = 1 if len(train_ids) > MANY else REPEATS
    ranks = [_ranks(train_ids, np.random.default_rng([seed, repeat])) for repeat in range(repeats)]
    most = min(1.0, MOST_IMAGES / len(train_ids))
    images, scores = [], []
    with progress.bar("learning curve", len(SHARES)) as bar:
        for share in SHARES:
            found, counts = [], []
            for rank in ranks[: 1 if share * most == 1.0 else repeats]:  # all images can be drawn in one way only
                chosen = rank < share * most
                probe = fit_probe(train[chosen], train_ids[chosen], num_classes)
                found.append(float((probe.probabilities(test).argmax(axis=1) == test_ids).mean()))
                counts.append(int(chosen.sum()))
            bar.advance()
            images.append(counts[0])
            scores.append(found)
    means, lows, highs = (np.array([of(one) for one in scores]) for of in (np.mean, min, max))
    return LearningCurve(np.array(images), means, lows, highs, len(train_ids))


def learning_curve_chapter(curve: LearningCurve, neighbour: float, score: float) -> Chapter:
    """Returns the chapter on what frozen features are worth, with the learning curve.

    Args:
        curve: Of the probe.
        neighbour: Test accuracy of the label of the most similar training image.
        score: Of the trained network, for comparison.
    """
    probe, gain = float(curve.accuracy[-1]), 100 * curve.gain_by_doubling
    title = f"Twice the training images would bring about {gain:+.1f} points"
    if not curve.whole:
        title = f"At {curve.images[-1]:,} of the {curve.of:,} training images, twice as many bring {gain:+.1f} points"
    finding = (
        f"{title}, by the slope of the curve. On frozen features the label of the most similar training image is "
        f"right for {neighbour:.3f} of the test images and a linear probe for {probe:.3f}; the trained network for "
        f"{score:.3f}."
    )
    series = [Series("linear probe", curve.accuracy.tolist(), curve.low.tolist(), curve.high.tolist())]
    figure = curve_figure(curve.images.tolist(), series, title, "training images", "test accuracy", logarithmic=True)
    metrics = {
        "test/neighbour_baseline": neighbour, "test/probe_baseline": probe,
        "test/gain_by_doubling": curve.gain_by_doubling,
    }  # fmt: skip
    columns = {"images": curve.images, "accuracy": curve.accuracy, "low": curve.low, "high": curve.high}
    return Chapter(
        name="learning_curve",
        title="Learning curve",
        finding=finding,
        metrics=metrics,
        tables={"learning_curve": {name: values.tolist() for name, values in columns.items()}},
        pictures={"learning_curve.png": Picture(figure, finding)},
    )


def _ranks(ids: Sequence[int] | np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns each image's place in a random order of its class, over the size of the class, in [0, 1)."""
    ids = np.asarray(ids)
    ranks = np.empty(len(ids))
    for number in np.unique(ids):
        where = np.flatnonzero(ids == number)
        ranks[where] = rng.permutation(len(where)) / len(where)
    return ranks
