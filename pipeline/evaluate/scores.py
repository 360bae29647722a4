"""The chapter of scores: what was hit, class by class, and what was taken for what."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.evaluate.figures import confusion_figure
from pipeline.evaluate.metrics import ClassificationScores
from pipeline.figures import one_line
from pipeline.pictures.scores import Scores, per_class_figure
from pipeline.tasks.base import Chapter, Picture


def scores_chapter(scores: ClassificationScores, classes: Sequence[str]) -> Chapter:
    """Returns the chapter with the table of classes and the confusion matrix."""
    title = _confusion_title(scores.confusion, classes)
    worst = _worst_title(scores, classes)
    recall = Scores(*(of.tolist() for of in (scores.recall, *scores.recall_interval)))
    per_class = per_class_figure(classes, recall, _precision(scores), scores.support.tolist(), worst)
    return Chapter(
        name="scores",
        title="Scores",
        finding=f"{' '.join(title.split())}. {worst}.",
        tables={"per_class": _per_class(scores, classes)},
        pictures={
            "per_class.png": Picture(per_class, f"recall and precision of each class: {worst}"),
            "confusion_matrix.png": Picture(confusion_figure(scores.confusion, classes, title), title),
        },
    )


def _per_class(scores: ClassificationScores, classes: Sequence[str]) -> dict[str, Sequence[object]]:
    return {
        "label": list(classes),
        "precision": scores.precision.tolist(),
        "precision_low": scores.precision_interval.low.tolist(),
        "precision_high": scores.precision_interval.high.tolist(),
        "recall": scores.recall.tolist(),
        "recall_low": scores.recall_interval.low.tolist(),
        "recall_high": scores.recall_interval.high.tolist(),
        "f1": scores.f1.tolist(),
        "support": scores.support.tolist(),
    }


def _precision(scores: ClassificationScores) -> Scores:
    """Returns the precision of each class, NaN of one that was never predicted."""
    predicted = scores.confusion.sum(axis=0) > 0
    known = (np.where(predicted, of, np.nan) for of in (scores.precision, *scores.precision_interval))
    return Scores(*(of.tolist() for of in known))


def _worst_title(scores: ClassificationScores, classes: Sequence[str]) -> str:
    tested = np.flatnonzero(scores.support > 0)
    worst = tested[np.argmin(scores.recall[tested])]
    low, high = (of[worst] for of in scores.recall_interval)
    name = one_line(classes[worst], 40)
    return f"Least often found: {name!r}, {scores.recall[worst]:.2f} of its images ({low:.2f} to {high:.2f})"


def _confusion_title(confusion: np.ndarray, labels: Sequence[str]) -> str:
    off = confusion - np.diag(np.diag(confusion))
    wrong = int(off.sum())
    if not wrong:
        return f"All {confusion.sum()} test images right"
    said = f"{wrong} of {confusion.sum()} test images wrong"
    if off.max() == 1:
        return said
    true, predicted = np.unravel_index(off.argmax(), off.shape)
    return f"{said};\nmost often {labels[true]!r} taken for {labels[predicted]!r} ({off.max()} times)"
