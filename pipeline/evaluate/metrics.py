"""Classification metrics as plain functions of probabilities and labels. TensorFlow is not loaded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClassificationScores:
    """Scores of N predictions over C classes.

    Attributes:
        metrics: `top_1` with its 95 % interval, `top_<k>`, `macro_f1`, `log_loss`, `majority_baseline`, `images`.
        precision, recall, f1: `(C,)` in [0, 1]; 0 where there is nothing to divide by.
        support: `(C,)` images of each class.
        confusion: `(C, C)` counts, a row the true class, a column the predicted one.
    """

    metrics: dict[str, float]
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray
    confusion: np.ndarray


def classification_scores(
    probabilities: np.ndarray, truth: np.ndarray, train_counts: np.ndarray, top_k: int
) -> ClassificationScores:
    """Returns the scores of probabilities against true class ids.

    Args:
        probabilities: `(N, C)` in [0, 1].
        truth: `(N,)` class ids.
        train_counts: `(C,)` images of each class in train; the baseline always says the commonest of them.
        top_k: Capped at C - 1, since with C guesses every answer is a hit.
    """
    from scipy.stats import binomtest
    from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support

    count, num_classes = probabilities.shape
    predicted = probabilities.argmax(axis=1)
    ids = np.arange(num_classes)
    precision, recall, f1, support = precision_recall_fscore_support(truth, predicted, labels=ids, zero_division=0)
    hits = int((predicted == truth).sum())
    interval = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    metrics = {
        "top_1": hits / count,
        "top_1_low": float(interval.low),
        "top_1_high": float(interval.high),
        "majority_baseline": float((truth == train_counts.argmax()).mean()),
        # Classes without a test image have no recall to average.
        "macro_f1": float(f1[support > 0].mean()),
        "log_loss": float(log_loss(truth, probabilities, labels=ids)),
        "images": count,
    }
    k = min(top_k, num_classes - 1)
    if k > 1:
        metrics[f"top_{k}"] = top_k_accuracy(probabilities, truth, k)
    confusion = confusion_matrix(truth, predicted, labels=ids)
    return ClassificationScores(metrics, precision, recall, f1, support, confusion)


def top_k_accuracy(probabilities: np.ndarray, truth: np.ndarray, k: int) -> float:
    """Returns the share of images whose true class is among the k likeliest; of equals the lower class id is taken."""
    likeliest = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    return float((likeliest == truth[:, None]).any(axis=1).mean())


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns probabilities, float64, of `(N, C)` logits."""
    from scipy.special import softmax as stable_softmax

    return np.asarray(stable_softmax(logits.astype(np.float64), axis=-1))
