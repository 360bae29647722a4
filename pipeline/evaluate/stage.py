"""The stage evaluate: one forward pass for each test image, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.config import EvaluateConfig, TrainConfig
from pipeline.evaluate.advice import Evidence, advise
from pipeline.evaluate.errors import build_tiles, choose_errors, errors_chapter, shown_rows
from pipeline.evaluate.explain import heat_maps
from pipeline.evaluate.label_noise import judge_labels, label_noise_chapter, save_label_noise
from pipeline.evaluate.learning_curve import LearningCurve, learning_curve, learning_curve_chapter
from pipeline.evaluate.neighbours import nearest_neighbours
from pipeline.evaluate.robustness import measure_robustness, robustness_chapter
from pipeline.evaluate.slices import image_kinds, measure_slices, slices_chapter
from pipeline.ingest.manifest import Manifest
from pipeline.models.network import Network
from pipeline.progress import Progress
from pipeline.tasks.base import Calibration, Chapter, Evaluation, Task
from pipeline.train.bank.frozen import FrozenFeatures, frozen_cut
from pipeline.train.bank.store import FeatureStore
from pipeline.train.dataset import Images, InputSpec, naming_bad_images
from pipeline.train.extraction import extract

#: Training images whose nearest is looked for, at most: as a baseline that is enough.
MOST_NEIGHBOURS = 10_000

#: Numbers of pooled features that are held at once, 2 GiB of them; of larger data sets no probe is fitted.
MOST_NUMBERS = 2**29


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes:
        network: As it was trained: raw pixels -> logits.
        pretrained: Builds the network as training began with it, where the bank can be of use; None where it began
            with random weights, whose features mean nothing.
        task: What it was trained for.
        manifest: Test is scored; train and validation are looked at by what has a feature of them.
        calibration: Fitted on validation.
        training: How it was trained, which says what the bank holds.
        store: The feature bank.
    """

    network: Network
    pretrained: Callable[[], Network] | None
    task: Task
    manifest: Manifest
    calibration: Calibration
    training: TrainConfig
    store: FeatureStore


@dataclass(frozen=True)
class Evaluated:
    """What the stage found.

    Attributes:
        evaluation: The task's scores.
        chapters: Everything else that was looked at, in the order of the report.
        forward_passes: Of images through the network, or through what was frozen; those of robustness and of Grad-CAM
            come on top.
    """

    evaluation: Evaluation
    chapters: Sequence[Chapter]
    forward_passes: int

    def metrics(self) -> dict[str, float]:
        """Returns all numbers, by the names that they are logged under."""
        of_chapters = {name: value for chapter in self.chapters for name, value in chapter.metrics.items()}
        return {**self.evaluation.metrics, **of_chapters}

    def document(self) -> dict[str, Any]:
        """Returns what `evaluation.json` holds."""
        return {
            "headline": self.evaluation.headline,
            "headline_metric": self.evaluation.headline_metric,
            "metrics": self.metrics(),
            "labels": list(self.evaluation.labels),
            "forward_passes": self.forward_passes,
            **self.evaluation.document,
            **{chapter.name: dict(chapter.document) for chapter in self.chapters if chapter.document},
            **{name: dict(table) for chapter in self.chapters for name, table in chapter.tables.items()},
        }


def evaluate(subject: Subject, config: EvaluateConfig, progress: Progress) -> Evaluated:
    """Returns the evaluation of a trained network on the manifest's test split.

    Raises:
        DataError: An image is not what it was at ingest, or TensorFlow cannot decode it.
    """
    return _Stage(subject, config, progress).run()


@dataclass
class _Stage:
    """One evaluation, from the logits to the advice."""

    subject: Subject
    config: EvaluateConfig
    progress: Progress
    frozen: FrozenFeatures | None = None
    passes: int = 0
    wrong_labels: int | None = None
    curve: LearningCurve | None = None
    scores: np.ndarray = field(init=False)
    test: Manifest = field(init=False)

    def run(self) -> Evaluated:
        of, self.test = self.subject, self.subject.manifest.split("test")
        with naming_bad_images(of.manifest.column("path")):
            logits = self._logits()
            images = {name: self.test.column(name) for name in ("id", "path", "label", "cluster")}
            train_labels = of.manifest.split("train").column("label")
            classes = of.manifest.classes
            evaluation = of.task.evaluate(logits, of.calibration, images, train_labels, classes, self.config)
            chapters = [*evaluation.chapters, *self._looks(evaluation, logits)]
        advice = advise(self._evidence(evaluation, len(train_labels)))
        passes = self.frozen.forward_passes if self.frozen else self.passes
        return Evaluated(evaluation, [chapters[0], advice, *chapters[1:]], passes)

    def _logits(self) -> np.ndarray:
        of = self.subject
        cut = frozen_cut(of.network, of.training)
        if cut is None:
            self.passes = len(self.test)
            return predict_logits(of.network, self.test, self.progress)
        # A head alone leaves the backbone as it was; the pretrained weights need not be there then.
        before = of.pretrained() if of.pretrained and of.training.fine_tune.epochs else of.network
        self.frozen = FrozenFeatures(before, before.cut(cut.name), of.store, self.progress)
        return self.frozen.logits(cut.top, self.test)

    def _looks(self, evaluation: Evaluation, logits: np.ndarray) -> Iterator[Chapter]:
        """Yields one chapter after the other."""
        of = self.subject
        ids = of.task.class_ids(of.manifest.column("label"), of.manifest.classes)
        if ids is not None:
            yield self._errors(evaluation)
        targets = of.task.encode_targets(self.test.column("label"), of.manifest.classes)
        self.scores = of.task.image_scores(logits, targets)
        slices = measure_slices(self.scores, self.test.column("cluster"), image_kinds(self.test))
        yield slices_chapter(slices, float(self.scores.mean()))
        if self.config.robustness:
            found = measure_robustness(of.network, of.task, self.test, of.manifest.classes, self.progress)
            yield robustness_chapter(found)
        pooled = None if ids is None else self._pooled()
        if ids is not None and pooled is not None:
            yield self._label_noise(pooled)
            yield self._learning_curve(pooled, ids)

    def _errors(self, evaluation: Evaluation) -> Chapter:
        """Returns the gallery of errors with Grad-CAM of what was answered."""
        of, predictions = self.subject, evaluation.predictions
        groups = choose_errors(predictions)
        rows, paths = shown_rows(groups), self.test.column("path")
        spec = InputSpec(of.network.image_size, of.network.channels, of.network.resize)
        pixels = np.stack([spec.decode(tf.io.read_file(paths[row])) for row in rows])
        answers = of.task.class_ids([predictions["predicted"][row] for row in rows], evaluation.labels)
        heats = None if answers is None else heat_maps(of.network.full, of.task, pixels, answers.tolist())
        chapter = errors_chapter(groups, build_tiles(rows, predictions, pixels, heats), predictions)
        passes = 0 if heats is None else len(rows)
        return replace(chapter, document={**chapter.document, "forward_passes": passes})

    def _pooled(self) -> np.ndarray | None:
        """Returns the frozen features of all images; None where there are none, or they mean nothing."""
        of = self.subject
        if self.frozen is None or of.pretrained is None:
            return None
        if len(of.manifest) * int(np.prod(of.network.pooling.output_shape[1:])) > MOST_NUMBERS:
            self.progress.say("labels and learning curve are not looked at: the features do not fit in memory")
            return None
        return self.frozen.pooled(of.manifest, "features")

    def _label_noise(self, pooled: np.ndarray) -> Chapter:
        manifest = self.subject.manifest
        noise = judge_labels(manifest, pooled)
        self.wrong_labels = noise.wrong
        chapter = label_noise_chapter(manifest, noise)
        return replace(chapter, files={"label_noise.csv": partial(save_label_noise, manifest, noise)})

    def _learning_curve(self, pooled: np.ndarray, ids: np.ndarray) -> Chapter:
        """Returns what frozen features are worth: nearest neighbour, probe, and the probe on parts of train."""
        split = np.array(self.subject.manifest.column("split"))
        train, test = np.flatnonzero(split == "train"), np.flatnonzero(split == "test")
        num_classes = len(self.subject.manifest.classes)
        self.curve = learning_curve(pooled[train], ids[train], pooled[test], ids[test], num_classes, 0, self.progress)
        some = np.sort(np.random.default_rng(0).permutation(train)[:MOST_NEIGHBOURS])
        nearest = nearest_neighbours(pooled[test], [pooled[some]], 1).places[:, 0]
        neighbour = float((ids[some][nearest] == ids[test]).mean())
        return learning_curve_chapter(self.curve, neighbour, float(self.scores.mean()))

    def _evidence(self, evaluation: Evaluation, train_images: int) -> Evidence:
        of, metric = self.subject, evaluation.headline_metric
        return Evidence(
            score=evaluation.metrics[metric],
            low=evaluation.metrics[f"{metric}_low"],
            high=evaluation.metrics[f"{metric}_high"],
            test_images=len(self.test),
            train_images=train_images,
            wrong_labels=self.wrong_labels,
            labels=len(of.manifest),
            curve=self.curve,
            pretrained=of.pretrained is not None,
            unfrozen=of.training.fine_tune.epochs > 0,
            worst=self._worst_classes(),
        )

    def _worst_classes(self) -> list[tuple[str, float]]:
        """Returns each class with the mean score of its test images, the worst first; of equals by name."""
        labels, of_images = np.unique(np.array(self.test.column("label"), object), return_inverse=True)
        means = np.bincount(of_images, self.scores) / np.bincount(of_images)
        return sorted(zip(labels.tolist(), means.tolist(), strict=True), key=lambda pair: (pair[1], pair[0]))


def predict_logits(network: Network, manifest: Manifest, progress: Progress) -> np.ndarray:
    """Returns the logits of every image of the manifest as it is, `(N, ...)` float32, in the manifest's order."""
    nothing = np.zeros((len(manifest), 0), np.float32)
    seeds = np.zeros(len(manifest), np.int64)
    images = Images(manifest.column("path"), manifest.column("sha256"), seeds, nothing, nothing[:0])
    spec = InputSpec(network.image_size, network.channels, network.resize)
    return extract(network.full, images, spec, network.row.extraction_batch, progress, "evaluate")
