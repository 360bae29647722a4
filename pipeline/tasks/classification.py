"""The task classification: one label an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from pipeline.config import EvaluateConfig, HeadConfig
from pipeline.evaluate.figures import confusion_figure
from pipeline.evaluate.metrics import ClassificationScores, classification_scores, softmax
from pipeline.figures import save_figure
from pipeline.models.backbones import Backbone
from pipeline.models.heads import build_classifier, build_pooling
from pipeline.tasks.base import Evaluation, Example


class Classification:
    """Cross-entropy over classes, one of which each image has. Implements `pipeline.tasks.base.Task`."""

    name = "classification"
    headline_metric = "top_1"

    def encode_targets(self, labels: Sequence[str], classes: Sequence[str]) -> np.ndarray:
        """Returns one-hot rows, `(N, C)` float32."""
        place = {label: number for number, label in enumerate(classes)}
        return np.eye(len(classes), dtype=np.float32)[[place[label] for label in labels]]

    def target_weights(self, targets: np.ndarray, scheme: str) -> np.ndarray:
        """Returns a weight for each class, `(C,)` float32: ones, or inverse to its frequency ("balanced")."""
        count, num_classes = targets.shape
        if scheme == "none":
            return np.ones(num_classes, np.float32)
        return (count / (num_classes * targets.sum(axis=0))).astype(np.float32)

    def build_head(
        self, features: tuple[int | None, ...], num_classes: int, config: HeadConfig, row: Backbone, seed: int
    ) -> tuple[keras.Model, keras.Model]:
        """Returns (pooling, classifier)."""
        pooling = build_pooling(features, config, row)
        return pooling, build_classifier(pooling.output_shape[-1], num_classes, config, row, seed)

    def loss(self, label_smoothing: float) -> keras.losses.Loss:
        """Returns the cross-entropy of logits with soft targets."""
        return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)

    def training_metrics(self) -> list[keras.metrics.Metric]:
        """Returns top-1 accuracy."""
        return [keras.metrics.CategoricalAccuracy(name="top_1")]

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Returns the softmax, `(N, C)` float64."""
        return softmax(logits)

    def evaluate(
        self, probabilities: np.ndarray, images: Mapping[str, Sequence[str]], train_labels: Sequence[str],
        classes: tuple[str, ...], config: EvaluateConfig,
    ) -> Evaluation:  # fmt: skip
        """Returns accuracy with its interval and baseline, scores per class and the confusion matrix."""
        place = {label: number for number, label in enumerate(classes)}
        truth = np.array([place[label] for label in images["label"]])
        train_counts = np.bincount([place[label] for label in train_labels], minlength=len(classes))
        scores = classification_scores(probabilities, truth, images["cluster"], train_counts, config.top_k)
        return Evaluation(
            metrics={f"test/{name}": value for name, value in scores.metrics.items()},
            labels=classes,
            tables={"per_class": _per_class(scores, classes)},
            document={"confusion_matrix": scores.confusion.tolist(), "majority_class": classes[train_counts.argmax()]},
            predictions=_predictions(probabilities, images, classes),
            headline=_headline(scores),
        )

    def save_figures(self, evaluation: Evaluation, folder: Path) -> list[Path]:
        """Writes `confusion_matrix.png` and returns the files written."""
        path = folder / "confusion_matrix.png"
        confusion = np.array(evaluation.document["confusion_matrix"])
        title = _confusion_title(confusion, evaluation.labels)
        save_figure(confusion_figure(confusion, evaluation.labels, title), path)
        return [path]

    def class_scores(self, logits: tf.Tensor) -> tf.Tensor:
        """Returns the logits."""
        return logits

    def choose_examples(self, evaluation: Evaluation, count: int) -> list[Example]:
        """Returns in turn the most confident hit, the least confident answer, the most confident mistake, and so on.

        Of equals the first test image.
        """
        columns = evaluation.predictions
        confidence = np.asarray(columns["probability"])
        hit = np.array([a == b for a, b in zip(columns["label"], columns["predicted"], strict=True)])
        falling = np.argsort(-confidence, kind="stable").tolist()
        kinds = [
            ("most confident hit", [row for row in falling if hit[row]]),
            ("least confident answer", np.argsort(confidence, kind="stable").tolist()),
            ("most confident mistake", [row for row in falling if not hit[row]]),
        ]
        chosen: dict[int, Example] = {}
        while len(chosen) < min(count, len(hit)):
            for kind, rows in kinds:
                row = next((row for row in rows if row not in chosen), None)
                if row is not None and len(chosen) < count:
                    which = f"the {kind}" if row == rows[0] else f"among the {kind}s"
                    chosen[row] = Example(row, f"{which}: {_verdict(columns['label'][row], columns['predicted'][row])}")
        return list(chosen.values())

    def serving_outputs(self, logits: tf.Tensor, classes: Sequence[str]) -> dict[str, tf.Tensor]:
        """Returns `label` `(B,)` string, `class_id` `(B,)` int64 and `probabilities` `(B, C)` float32."""
        class_id = tf.argmax(logits, axis=-1)
        return {
            "label": tf.gather(tf.constant(list(classes)), class_id),
            "class_id": class_id,
            "probabilities": tf.nn.softmax(logits),
        }


def _verdict(label: str, predicted: str) -> str:
    return label if label == predicted else f"{label}, taken for {predicted}"


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


def _predictions(
    probabilities: np.ndarray, images: Mapping[str, Sequence[str]], classes: Sequence[str]
) -> dict[str, Sequence[object]]:
    predicted = probabilities.argmax(axis=1)
    return {
        "id": images["id"],
        "path": images["path"],
        "label": images["label"],
        "predicted": [classes[number] for number in predicted],
        "probability": probabilities.max(axis=1),
        **{f"p:{label}": probabilities[:, number] for number, label in enumerate(classes)},
    }


def _headline(scores: ClassificationScores) -> str:
    found = scores.metrics
    return (
        f"top-1 {found['top_1']:.3f} (95 % interval {found['top_1_low']:.3f} to {found['top_1_high']:.3f}) on "
        f"{found['images']} test images; always saying the commonest class scores {found['majority_baseline']:.3f}"
    )


def _confusion_title(confusion: np.ndarray, labels: Sequence[str]) -> str:
    off = confusion - np.diag(np.diag(confusion))
    wrong = int(off.sum())
    if not wrong:
        return f"All {confusion.sum()} test images right"
    true, predicted = np.unravel_index(off.argmax(), off.shape)
    return (
        f"{wrong} of {confusion.sum()} test images wrong;\n"
        f"most often {labels[true]!r} taken for {labels[predicted]!r} ({off.max()} times)"
    )
