"""The Task protocol: everything that depends on what is learnt, in one object.

Stages receive a task as an argument and never ask which one it is. TensorFlow is not loaded here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pipeline.config import EvaluateConfig, HeadConfig

if TYPE_CHECKING:
    import keras
    import tensorflow as tf
    from matplotlib.figure import Figure

    from pipeline.models.backbones import Backbone


@dataclass(frozen=True)
class Calibration:
    """How logits become probabilities, and when the model says that it does not know. Fitted on validation alone.

    Attributes:
        temperature: What logits are divided by; 1 leaves them as they are.
        threshold: The least probability of an answer that the model stands by.
        images: How many validation images it was fitted on, 0 where none.
        note: Why it is as it is, in one sentence.
    """

    temperature: float = 1.0
    threshold: float = 0.0
    images: int = 0
    note: str = "not calibrated"


UNCALIBRATED = Calibration()


@dataclass(frozen=True)
class Picture:
    """A figure of a chapter.

    Attributes:
        figure: What is drawn; its title says the finding.
        alt: The same in words, for those who cannot see it.
    """

    figure: Figure
    alt: str


@dataclass(frozen=True)
class Chapter:
    """One thing that was looked at: it is stored, logged and printed in the report like any other.

    Attributes:
        name: Its key in `evaluation.json`.
        title: What it is about, in a word or two.
        finding: What was found, in a sentence or two for people.
        metrics: Numbers to log, by their full names (`test/ece`).
        document: What `evaluation.json` holds under `name`, ready for JSON; nothing is stored where it is empty.
        tables: By name, each a mapping of column to values.
        pictures: By file name (`reliability.png`).
        files: What else goes into the run's folder: by file name, what writes it.
    """

    name: str
    title: str
    finding: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    document: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    files: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """What a model is worth on the test split.

    Attributes:
        metrics: Flat names as they are logged, `test/top_1` and so on.
        headline_metric: The one among them that runs are compared by.
        labels: The classes, in the order of every array below.
        document: What `evaluation.json` holds beside metrics and labels.
        predictions: The columns of `predictions.parquet`.
        headline: The result in one line, the baseline beside it.
        chapters: What is to be said beside it.
    """

    metrics: Mapping[str, float]
    headline_metric: str
    labels: tuple[str, ...]
    document: Mapping[str, Any]
    predictions: Mapping[str, Sequence[Any]]
    headline: str
    chapters: Sequence[Chapter] = ()


@dataclass(frozen=True)
class Example:
    """A test image worth a look.

    Attributes:
        row: Its place among the test images.
        reason: Why, in a few words.
    """

    row: int
    reason: str


class Task(Protocol):
    """One kind of learning problem."""

    name: str
    #: The score that people compare by, as `training_metrics` and `evaluate` call it; it has `_low` and `_high`.
    headline_metric: str

    def encode_targets(self, labels: Sequence[str], classes: Sequence[str]) -> np.ndarray:
        """Returns what the loss compares with, `(N, ...)` float32."""

    def target_weights(self, targets: np.ndarray, scheme: str) -> np.ndarray:
        """Returns the loss weight of each class, `(C,)` float32, of mean 1 over the training images."""

    def build_head(
        self, features: tuple[int | None, ...], num_classes: int, config: HeadConfig, row: Backbone, seed: int
    ) -> tuple[keras.Model, keras.Model]:
        """Returns (neck, classifier): backbone features -> what is kept of a frozen backbone -> logits, float32."""

    def loss(self, label_smoothing: float) -> keras.losses.Loss:
        """Returns the training loss, on logits."""

    def training_metrics(self) -> list[keras.metrics.Metric]:
        """Returns what is counted while training; `top_1` becomes `train/top_1` and `validation/top_1`."""

    def fit_calibration(self, logits: np.ndarray, targets: np.ndarray, confident_accuracy: float) -> Calibration:
        """Returns the calibration that suits the logits and targets of validation.

        Of the answers that the model stands by then, the share `confident_accuracy` shall be right.
        """

    def probabilities(self, logits: np.ndarray, calibration: Calibration = UNCALIBRATED) -> np.ndarray:
        """Returns probabilities of logits, same shape, float64."""

    def evaluate(
        self, logits: np.ndarray, calibration: Calibration, images: Mapping[str, Sequence[str]],
        train_labels: Sequence[str], classes: tuple[str, ...], config: EvaluateConfig,
    ) -> Evaluation:  # fmt: skip
        """Returns the evaluation of what a network answers to the test images (columns id, path, label, cluster)."""

    def class_ids(self, labels: Sequence[str], classes: Sequence[str]) -> np.ndarray | None:
        """Returns the class id of each image, `(N,)` int64; None where an image has no class."""

    def image_scores(self, logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Returns how right the answer to each image is, `(N,)` in [0, 1]; their mean is the headline metric."""

    def class_scores(self, logits: tf.Tensor) -> tf.Tensor | None:
        """Returns one score a class for a whole image, `(B, C)`, before a softmax: what Grad-CAM explains.

        None where an image has no class: then images are explained without it.
        """

    def choose_examples(self, evaluation: Evaluation, count: int) -> list[Example]:
        """Returns up to `count` test images whose explanation is worth drawing; none is an answer."""

    def serving_outputs(
        self, logits: tf.Tensor, classes: Sequence[str], calibration: Calibration = UNCALIBRATED
    ) -> dict[str, tf.Tensor]:
        """Returns the named outputs of the exported model; `confident`, `(B,)` bool, says which it stands by."""
