"""What two classifiers said to the same test images, compared: scores, classes, images, and a verdict in words.

Plain arrays in, no run, no file. TensorFlow is not loaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from pipeline.evaluate.paired import (
    Difference,
    accuracy_difference,
    bootstrap_interval,
    design_effect,
    images_needed,
    mcnemar,
)

#: A test set beyond this is no advice.
MOST_NEEDED = 1_000_000

#: Probabilities below count as this in the log loss, as scikit-learn has it for float64.
_SMALLEST = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Answers:
    """What a run said to N test images.

    Attributes:
        predicted: N labels.
        probability: `(N,)` in [0, 1], of the label predicted.
        of_truth: `(N,)` in [0, 1], of the true label; NaN where the run does not know that label.
    """

    predicted: Sequence[str]
    probability: np.ndarray
    of_truth: np.ndarray


@dataclass(frozen=True)
class ChangedImage:
    """An image on which one run is right and the other is not.

    Attributes:
        row: Its place among the images compared.
        label: The true one.
        predicted_a, predicted_b: What each run said.
        probability_a, probability_b: Of what each said, in [0, 1].
    """

    row: int
    label: str
    predicted_a: str
    predicted_b: str
    probability_a: float
    probability_b: float


@dataclass(frozen=True)
class ClassChange:
    """A class in the test images.

    Attributes:
        label: Its name.
        images: How many test images have it.
        recall_a, recall_b: Share of them that each run finds, in [0, 1].
        fixed: How many only the second run is right on.
        broken: How many only the first is right on.
    """

    label: str
    images: int
    recall_a: float
    recall_b: float
    fixed: int
    broken: int


@dataclass(frozen=True)
class Comparison:
    """Two runs, A and B, on the same test images. A difference is B less A.

    Attributes:
        images, clusters: How many images; and how many once copies of each other count as one.
        top_1, macro_f1: Shares in [0, 1].
        log_loss: In nats; None where a true label is unknown to one of the runs.
        p_value: Of McNemar's exact test.
        classes: In the order of their labels.
        fixed, broken: The images that B alone, that A alone is right on; where both were surest first.
        needed: Test images that would show this difference four times of five; None where none would, or none need.
        alike: Whether both gave every image the same label.
    """

    images: int
    clusters: int
    top_1: Difference
    macro_f1: Difference
    log_loss: Difference | None
    p_value: float
    classes: tuple[ClassChange, ...]
    fixed: tuple[ChangedImage, ...]
    broken: tuple[ChangedImage, ...]
    needed: int | None
    alike: bool

    @property
    def outcome(self) -> Literal["better", "worse", "unknown", "alike"]:
        """What B is; "alike" where both are right on the same images.

        The interval decides and not McNemar's test: it says how large the difference may be, and knows that copies of
        an image are not several.
        """
        if not (self.fixed or self.broken):
            return "alike"
        if self.top_1.low > 0:
            return "better"
        return "worse" if self.top_1.high < 0 else "unknown"

    def verdict(self, a: str, b: str) -> str:
        """Returns the outcome in one line, the runs called by the names given."""
        if self.outcome == "alike":
            what = "gave the same answers to" if self.alike else "are right and wrong on the same of"
            return f"the two answer alike: {a} and {b} {what} all {self.images:,} test images"
        points = f"{100 * self.top_1.value:+.1f} points"
        found = f"{points}, 95 % CI {100 * self.top_1.low:.1f} to {100 * self.top_1.high:.1f}"
        if self.outcome != "unknown":
            return f"{b} is {self.outcome} than {a}, {found}"
        return f"cannot tell whether {b} is better than {a}: {found}; {self._advice()}"

    def _advice(self) -> str:
        more = (self.needed or 0) - self.images
        if self.needed is None or self.needed > MOST_NEEDED:
            return "no number of test images would show a difference this small"
        return f"needs about {_rounded(max(1, more)):,} more test images"

    def notes(self) -> list[str]:
        """Returns what must be known to read the numbers, a line each."""
        notes = []
        if self.clusters < self.images:
            notes.append(
                f"some images are copies of each other or belong together ({self.clusters:,} clusters): the intervals "
                f"know, McNemar's test does not"
            )
        if (self.outcome in ("better", "worse")) != (self.p_value < 0.05):
            said = "sees" if self.p_value < 0.05 else "does not see"
            why = "takes copies for images of their own" if self.clusters < self.images else "is the more cautious"
            notes.append(
                f"McNemar's exact test {said} a difference (p = {self.p_value:.3f}); it {why}, and the interval decides"
            )
        if self.log_loss is None:
            notes.append("no log loss: there are test images whose class one of the runs was not trained on")
        return notes

    def document(self) -> dict[str, Any]:
        """Returns all but the lists of images, for JSON."""
        return {
            "images": self.images,
            "clusters": self.clusters,
            "outcome": self.outcome,
            "top_1": self.top_1.document(),
            "macro_f1": self.macro_f1.document(),
            "log_loss": self.log_loss and self.log_loss.document(),
            "mcnemar": {"fixed": len(self.fixed), "broken": len(self.broken), "p_value": self.p_value},
            "images_needed": self.needed,
            "classes": [asdict(change) for change in self.classes],
            "notes": self.notes(),
        }


def compare_answers(truth: Sequence[str], a: Answers, b: Answers, clusters: Sequence[int]) -> Comparison:
    """Returns the comparison of two runs on N test images.

    Args:
        truth: N labels.
        a: What the first run said to them, in the same order.
        b: What the second run said.
        clusters: N numbers; images that share one are copies of each other, or belong together in another way.

    Raises:
        ValueError: All images are of one cluster: nothing is known of how much chance there is in a difference.
    """
    groups = np.unique(clusters, return_inverse=True)[1]
    if not len(groups) or not groups.any():
        raise ValueError("at least two clusters of images are needed")
    labels, said_a, said_b = (np.asarray(names, dtype=object) for names in (truth, a.predicted, b.predicted))
    right_a, right_b = said_a == labels, said_b == labels
    top_1 = accuracy_difference(right_a, right_b, groups)
    fixed, broken = (_changed(rows, truth, a, b) for rows in (right_b & ~right_a, right_a & ~right_b))
    comparison = Comparison(
        images=len(labels),
        clusters=int(groups.max()) + 1,
        top_1=top_1,
        macro_f1=_macro_f1_difference(labels, said_a, said_b, groups, top_1),
        log_loss=_log_loss_difference(a.of_truth, b.of_truth, groups),
        p_value=mcnemar(len(fixed), len(broken)),
        classes=_class_changes(labels, right_a, right_b),
        fixed=fixed,
        broken=broken,
        needed=None,
        alike=bool((said_a == said_b).all()),
    )
    if comparison.outcome != "unknown":
        return comparison
    effect = design_effect(right_b.astype(np.int64) - right_a, groups)
    needed = images_needed(len(fixed), len(broken), len(labels), effect)
    return Comparison(**{**comparison.__dict__, "needed": needed})


def _changed(rows: np.ndarray, truth: Sequence[str], a: Answers, b: Answers) -> tuple[ChangedImage, ...]:
    """Returns the images of the rows that are True, where both were surest first: those say most about the two."""
    found = [
        ChangedImage(
            row, truth[row], a.predicted[row], b.predicted[row], float(a.probability[row]),
            float(b.probability[row]),
        )
        for row in np.flatnonzero(rows).tolist()
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda one: (-one.probability_a - one.probability_b, one.row)))


def _class_changes(labels: np.ndarray, right_a: np.ndarray, right_b: np.ndarray) -> tuple[ClassChange, ...]:
    changes = []
    for label in sorted(set(labels)):
        one, other = right_a[labels == label], right_b[labels == label]
        fixed, broken = int((other & ~one).sum()), int((one & ~other).sum())
        changes.append(ClassChange(label, len(one), float(one.mean()), float(other.mean()), fixed, broken))
    return tuple(changes)


def _macro_f1_difference(
    truth: np.ndarray, a: np.ndarray, b: np.ndarray, clusters: np.ndarray, top_1: Difference
) -> Difference:
    """Returns macro-F1 and the bootstrap interval of the difference, on neither side shorter than that of top-1.

    Where few images differ, resampling shows no other world than one where the same few do, and its interval is too
    short; a mean over classes is not surer than the mean over images.
    """
    scores_a, scores_b = _macro_f1(truth, a), _macro_f1(truth, b)
    whole = np.ones((1, len(truth)), np.int64)
    low, high = bootstrap_interval(lambda weights: scores_b(weights) - scores_a(weights), clusters)
    one, other = float(scores_a(whole)[0]), float(scores_b(whole)[0])
    low = min(low, other - one - (top_1.value - top_1.low))
    high = max(high, other - one + (top_1.high - top_1.value))
    return Difference(one, other, max(-1.0, low), min(1.0, high))


def _macro_f1(truth: np.ndarray, predicted: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from how often each image counts, `(R, N)`, to the R macro-F1: means over the classes there.

    As in `pipeline.evaluate.metrics`; weights make it quick to compute for thousands of resamples.
    """
    from scipy.sparse import csr_matrix

    names, places = np.unique(np.concatenate([truth, predicted]), return_inverse=True)
    true, said = places[: len(truth)], places[len(truth) :]

    def indicator(classes: np.ndarray, values: np.ndarray) -> Any:
        return csr_matrix((values, (classes, np.arange(len(classes)))), shape=(len(names), len(classes)))

    ones = np.ones(len(true), np.int64)
    is_true, is_said, is_hit = indicator(true, ones), indicator(said, ones), indicator(true, (true == said) * ones)

    def score(weights: np.ndarray) -> np.ndarray:
        support, both, hits = ((matrix @ weights.T).T for matrix in (is_true, is_true + is_said, is_hit))
        f1 = np.divide(2 * hits, both, out=np.zeros(both.shape), where=both > 0)
        there = support > 0
        return np.asarray((f1 * there).sum(axis=1) / there.sum(axis=1))

    return score


def _log_loss_difference(a: np.ndarray, b: np.ndarray, clusters: np.ndarray) -> Difference | None:
    if np.isnan(a).any() or np.isnan(b).any():
        return None
    loss_a, loss_b = (-np.log(np.clip(probability, _SMALLEST, 1)) for probability in (a, b))
    worse = loss_b - loss_a
    low, high = bootstrap_interval(lambda weights: weights @ worse / weights.sum(axis=1), clusters)
    return Difference(float(loss_a.mean()), float(loss_b.mean()), low, high)


def _rounded(count: int) -> int:
    """Returns a count rounded up to two digits: it is an estimate, and more digits would say otherwise."""
    step = 10 ** max(0, int(math.log10(count)) - 1)
    return -(-count // step) * step
