"""What to do next, in one paragraph, each sentence with its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.evaluate.learning_curve import LearningCurve
from pipeline.tasks.base import Chapter

#: Half the interval's width from which on the test set itself is the bottleneck: no change smaller could be seen.
WIDE = 0.04

#: The share of labels that look wrong from which on mending them comes before anything else.
WRONG_LABELS = 0.02

#: What twice the images must bring to be worth collecting.
WORTHWHILE_GAIN = 0.01

#: The error below which there is little left to gain.
SMALL_ERROR = 0.02


@dataclass(frozen=True)
class Evidence:
    """What is known about a run.

    Attributes:
        score, low, high: The headline score and its interval.
        test_images, train_images: How many there are.
        wrong_labels: How many labels look wrong, of all; None where that was not looked at.
        labels: How many labels there are.
        curve: The learning curve, None where there is none.
        pretrained: Whether training began from pretrained weights.
        unfrozen: Whether layers of the backbone were trained.
        worst: The classes that are hit least, with their recall, the worst first.
    """

    score: float
    low: float
    high: float
    test_images: int
    train_images: int
    wrong_labels: int | None
    labels: int
    curve: LearningCurve | None
    pretrained: bool
    unfrozen: bool
    worst: Sequence[tuple[str, float]]


def advise(evidence: Evidence) -> Chapter:
    """Returns the chapter that says what to do next, the most worthwhile first."""
    kinds = [kind for kind in (_labels, _data, _unfreeze, _pretrained, _test_images) if kind(evidence)]
    sentences = [str(kind(evidence)) for kind in kinds] or [_good_enough(evidence)]
    first = {
        _labels: "better labels", _data: "more data", _unfreeze: "unfreeze more", _pretrained: "pretrained weights",
        _test_images: "more test images",
    }  # fmt: skip
    verdict = first[kinds[0]] if kinds else "good enough"
    return Chapter(
        name="next",
        title="What next?",
        finding=" ".join([f"{verdict[0].upper()}{verdict[1:]}.", *sentences]),
        document={"advice": [first[kind] for kind in kinds] or ["good enough"]},
    )


def _labels(evidence: Evidence) -> str | None:
    wrong = evidence.wrong_labels
    if not wrong or wrong < WRONG_LABELS * evidence.labels:
        return None
    return (
        f"About {wrong:,} of {evidence.labels:,} labels look wrong; look through label_noise.csv, fill in new_label "
        f"and run pipeline relabel: wrong labels in test lower the score itself."
    )


def _gain(evidence: Evidence) -> float | None:
    return evidence.curve.gain_by_doubling if evidence.curve else None


def _data(evidence: Evidence) -> str | None:
    gain = _gain(evidence)
    if gain is None or gain < WORTHWHILE_GAIN or 1 - evidence.score < SMALL_ERROR:
        return None
    if evidence.curve and not evidence.curve.whole:  # where it ends it may rise, at all images less so
        return None
    rarest = ", ".join(f"{label!r} ({recall:.2f})" for label, recall in evidence.worst[:3])
    return (
        f"The learning curve still rises: twice the {evidence.train_images:,} training images would bring about "
        f"{100 * gain:.1f} points; begin with the classes that are hit least: {rarest}."
    )


def _unfreeze(evidence: Evidence) -> str | None:
    gain = _gain(evidence)
    if evidence.unfrozen or gain is None or _data(evidence) or 1 - evidence.score < SMALL_ERROR:
        return None
    images = evidence.curve.images[-1] if evidence.curve else 0
    return (
        f"More images bring a head on frozen features little ({100 * gain:+.1f} points by doubling {images:,}) and "
        f"{1 - evidence.score:.1%} are still wrong; train layers of the backbone: --set train.fine_tune.epochs=10."
    )


def _pretrained(evidence: Evidence) -> str | None:
    if evidence.pretrained or 1 - evidence.score < SMALL_ERROR:
        return None
    return (
        f"{1 - evidence.score:.1%} are still wrong and training began from random weights; pretrained ones "
        "(model.weights=imagenet) need far fewer images, and their features show what more images would bring."
    )


def _test_images(evidence: Evidence) -> str | None:
    half = (evidence.high - evidence.low) / 2
    if half < WIDE:
        return None
    return (
        f"With {evidence.test_images:,} test images the score is known to {100 * half:.0f} points either way; "
        f"differences smaller than that cannot be seen, whatever is changed."
    )


def _good_enough(evidence: Evidence) -> str:
    gain = _gain(evidence)
    curve = f"twice the images would bring about {100 * gain:.1f} points, " if gain is not None else ""
    labels = "" if evidence.wrong_labels is None else f"{evidence.wrong_labels:,} labels look wrong, "
    return (
        f"{evidence.score:.1%} are right ({evidence.low:.1%} to {evidence.high:.1%}); {curve}{labels}"
        "and nothing else stands out."
    )
