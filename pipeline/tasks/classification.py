"""The task classification: one label an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from pipeline.config import EvaluateConfig, HeadConfig
from pipeline.evaluate.calibration import calibration_chapter
from pipeline.evaluate.metrics import ClassificationScores, classification_scores, softmax
from pipeline.evaluate.scores import scores_chapter
from pipeline.models.backbones import Backbone
from pipeline.models.heads import build_classifier, build_pooling
from pipeline.tasks.base import UNCALIBRATED, Calibration, Evaluation, Example
from pipeline.train.calibration import fit_calibration


class Classification:
    """Cross-entropy over classes, one of which each image has. Implements `pipeline.tasks.base.Task`."""

    name = "classification"
    headline_metric = "top_1"

    def encode_targets(self, labels: Sequence[str], classes: Sequence[str]) -> np.ndarray:
        """Returns one-hot rows, `(N, C)` float32."""
        return np.eye(len(classes), dtype=np.float32)[self.class_ids(labels, classes)]

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

    def fit_calibration(self, logits: np.ndarray, targets: np.ndarray, confident_accuracy: float) -> Calibration:
        """Returns temperature and threshold."""
        return fit_calibration(logits, targets.argmax(axis=1), confident_accuracy)

    def probabilities(self, logits: np.ndarray, calibration: Calibration = UNCALIBRATED) -> np.ndarray:
        """Returns the softmax at the calibration's temperature, `(N, C)` float64."""
        return softmax(logits / calibration.temperature)

    def evaluate(
        self, logits: np.ndarray, calibration: Calibration, images: Mapping[str, Sequence[str]],
        train_labels: Sequence[str], classes: tuple[str, ...], config: EvaluateConfig,
    ) -> Evaluation:  # fmt: skip
        """Returns accuracy with its interval and baseline, scores per class and the confusion matrix."""
        probabilities = self.probabilities(logits, calibration)
        truth = self.class_ids(images["label"], classes)
        train_counts = np.bincount(self.class_ids(train_labels, classes), minlength=len(classes))
        scores = classification_scores(probabilities, truth, images["cluster"], train_counts, config.top_k)
        return Evaluation(
            metrics={f"test/{name}": value for name, value in scores.metrics.items()},
            headline_metric=f"test/{self.headline_metric}",
            labels=classes,
            document={"confusion_matrix": scores.confusion.tolist(), "majority_class": classes[train_counts.argmax()]},
            predictions=_predictions(probabilities, images, classes),
            headline=_headline(scores),
            chapters=(
                scores_chapter(scores, classes),
                calibration_chapter(self.probabilities(logits), probabilities, truth, calibration),
            ),
        )

    def class_ids(self, labels: Sequence[str], classes: Sequence[str]) -> np.ndarray:
        """Returns each label's place among the classes, `(N,)` int64."""
        place = {label: number for number, label in enumerate(classes)}
        return np.array([place[label] for label in labels], np.int64)

    def image_scores(self, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Returns 1 for each hit and 0 for each mistake, `(N,)` float64."""
        return (logits.argmax(axis=1) == targets.argmax(axis=1)).astype(np.float64)

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

    def serving_outputs(
        self, logits: tf.Tensor, classes: Sequence[str], calibration: Calibration = UNCALIBRATED
    ) -> dict[str, tf.Tensor]:
        """Returns `label` `(B,)` string, `class_id` int64, `probabilities` `(B, C)` float32 and `confident` bool."""
        class_id = tf.argmax(logits, axis=-1)
        probabilities = tf.nn.softmax(logits / calibration.temperature)
        return {
            "label": tf.gather(tf.constant(list(classes)), class_id),
            "class_id": class_id,
            "probabilities": probabilities,
            "confident": tf.reduce_max(probabilities, axis=-1) >= calibration.threshold,
        }


def _verdict(label: str, predicted: str) -> str:
    return label if label == predicted else f"{label}, taken for {predicted}"


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
