"""Classification metrics as plain functions of probabilities and labels. TensorFlow is not loaded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.evaluate.intervals import (
    Clusters,
    Interval,
    effective_predictions,
    macro_intervals,
    macro_scores,
    mean_interval,
    wilson_interval,
)


@dataclass(frozen=True)
class ClassificationScores:
    """Scores of N predictions over C classes.

    Attributes:
        metrics: `top_1`, `top_<k>`, `macro_f1`, `balanced_accuracy` and `log_loss`, each with its 95 % interval as
            `<name>_low` and `<name>_high`; `roc_auc` and `pr_auc`; `majority_baseline`; `images`, and how many
            independent ones they are worth for top-1, `effective_images`. What cannot be known is left out.
        precision, recall, f1: `(C,)` in [0, 1]; 0 where there is nothing to divide by.
        precision_interval, recall_interval: `(C,)` ends; [0, 1] where there is nothing to divide by.
        support: `(C,)` images of each class.
        confusion: `(C, C)` counts, a row the true class, a column the predicted one.
    """

    metrics: dict[str, float]
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    precision_interval: Interval
    recall_interval: Interval
    support: np.ndarray
    confusion: np.ndarray


def classification_scores(
    probabilities: np.ndarray, truth: np.ndarray, clusters: npt.ArrayLike, train_counts: np.ndarray, top_k: int
) -> ClassificationScores:
    """Returns the scores of probabilities against true class ids.

    Args:
        probabilities: `(N, C)` in [0, 1].
        truth: `(N,)` class ids.
        clusters: `(N,)` names or numbers; near-duplicates share one, and do not narrow an interval.
        train_counts: `(C,)` images of each class in train; the baseline always says the commonest of them.
        top_k: Capped at C - 1, since with C guesses every answer is a hit.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    count, num_classes = probabilities.shape
    # In the order of the names, so that the bootstrap does not depend on the order of the images.
    group = np.unique(np.asarray(clusters), return_inverse=True)[1]
    predicted = probabilities.argmax(axis=1)
    hits, ids = predicted == truth, np.arange(num_classes)
    precision, recall, f1, support = precision_recall_fscore_support(truth, predicted, labels=ids, zero_division=0)
    confusion = confusion_matrix(truth, predicted, labels=ids)
    of_truth = Clusters(group, truth, num_classes)
    agreement = of_truth.agreement(hits)
    effective = of_truth.effective(agreement)
    taken = effective_predictions(truth, predicted, group, num_classes, agreement)
    macro_f1, balanced = macro_intervals(truth, predicted, group, effective)
    # Classes without a test image have no recall to average.
    macro = macro_scores(np.diag(confusion), support, confusion.sum(axis=0))
    metrics = {
        **_share("top_1", hits, group),
        "effective_images": _effective(hits, group),
        "majority_baseline": float((truth == train_counts.argmax()).mean()),
        **_with_ends("macro_f1", float(macro[0]), macro_f1),
        **_with_ends("balanced_accuracy", float(macro[1]), balanced),
        **_log_loss(probabilities, truth, group),
        **_areas(probabilities, truth),
        "images": count,
    }
    k = min(top_k, num_classes - 1)
    if k > 1:
        metrics |= _share(f"top_{k}", in_top_k(probabilities, truth, k), group)
    return ClassificationScores(
        metrics, precision, recall, f1,
        wilson_interval(precision, taken), wilson_interval(recall, effective),
        support, confusion,
    )  # fmt: skip


def _effective(hits: np.ndarray, group: np.ndarray) -> float:
    clusters = Clusters(group)
    return float(clusters.effective(clusters.agreement(hits))[0])


def _share(name: str, hits: np.ndarray, group: np.ndarray) -> dict[str, float]:
    share = float(hits.mean())
    return _with_ends(name, share, wilson_interval(share, _effective(hits, group)))


def _log_loss(probabilities: np.ndarray, truth: np.ndarray, group: np.ndarray) -> dict[str, float]:
    """Returns the mean negative log probability of the true class; probabilities of 0 count as the least float64 eps.

    That is what scikit-learn does; the loss of each image is needed for the interval, which it does not give.
    """
    likely = probabilities[np.arange(len(truth)), truth] / probabilities.sum(axis=1)
    losses = -np.log(np.maximum(likely, np.finfo(np.float64).eps))
    low, high = mean_interval(losses, group)
    return _with_ends("log_loss", float(losses.mean()), Interval(np.maximum(low, 0), high))


def _areas(probabilities: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Returns the areas under the ROC and the precision-recall curve: each class against the rest, and their mean.

    Over the classes that have both test images and test images of other classes; nothing where there is none.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    present = np.unique(truth)
    if len(present) < 2:
        return {}
    # Labels of several classes at once are one problem a class to scikit-learn, and no check of each by itself.
    positives, scores = truth[:, np.newaxis] == present, probabilities[:, present]
    return {
        "roc_auc": float(roc_auc_score(positives, scores, average="macro")),
        "pr_auc": float(average_precision_score(positives, scores, average="macro")),
    }


def _with_ends(name: str, score: float, interval: Interval) -> dict[str, float]:
    low, high = float(interval.low), float(interval.high)
    return {name: score} | ({f"{name}_low": low, f"{name}_high": high} if np.isfinite([low, high]).all() else {})


def in_top_k(probabilities: np.ndarray, truth: np.ndarray, k: int) -> np.ndarray:
    """Returns `(N,)` whether the true class is among the k likeliest; of equals the lower class id is taken."""
    likeliest = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return np.asarray((likeliest == truth[:, None]).any(axis=1))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns probabilities, float64, of `(N, C)` logits."""
    from scipy.special import softmax as stable_softmax

    return np.asarray(stable_softmax(logits.astype(np.float64), axis=-1))
