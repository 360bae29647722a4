"""The stage evaluate: one forward pass for each test image, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.config import EvaluateConfig, TrainConfig
from pipeline.ingest.manifest import Manifest
from pipeline.models.network import Network
from pipeline.progress import Progress
from pipeline.tasks.base import Calibration, Chapter, Evaluation, Task
from pipeline.train.bank.frozen import FrozenFeatures, frozen_cut
from pipeline.train.bank.store import FeatureStore
from pipeline.train.dataset import Images, InputSpec, naming_bad_images
from pipeline.train.extraction import extract


@dataclass(frozen=True)
class Evaluated:
    """What the stage found.

    Attributes:
        evaluation: The task's scores.
        chapters: Everything else that was looked at, in the order of the report.
        forward_passes: Of test images through the network, or through what was frozen; those of robustness and of
            Grad-CAM are counted by their chapters.
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


def evaluate(
    network: Network, pretrained: Callable[[], Network], task: Task, manifest: Manifest, calibration: Calibration,
    config: EvaluateConfig, training: TrainConfig, store: FeatureStore, progress: Progress,
) -> Evaluated:  # fmt: skip
    """Returns the evaluation of a trained network on the manifest's test split.

    Args:
        network: As it was trained: raw pixels -> logits.
        pretrained: Builds the network as training began with it; called where the bank can be of use.
        task: What it was trained for.
        manifest: Test is scored; train and validation are looked at by what has a feature of them.
        calibration: Fitted on validation.
        config: What is looked at.
        training: How it was trained, which says what the bank holds.
        store: The feature bank.
        progress: Where to show how far it is.
    """
    test = manifest.split("test")
    cut = frozen_cut(network, training)
    frozen = None
    with naming_bad_images(test.column("path")):
        if cut is None:
            logits, passes = predict_logits(network, test, progress), len(test)
        else:
            before = pretrained()
            frozen = FrozenFeatures(before, before.cut(cut.name), store, progress)
            logits = frozen.logits(cut.top, test)
            passes = frozen.forward_passes
    images = {name: test.column(name) for name in ("id", "path", "label", "cluster")}
    train_labels = manifest.split("train").column("label")
    evaluation = task.evaluate(logits, calibration, images, train_labels, manifest.classes, config)
    return Evaluated(evaluation, list(evaluation.chapters), passes)


def predict_logits(network: Network, manifest: Manifest, progress: Progress) -> np.ndarray:
    """Returns the logits of every image of the manifest as it is, `(N, ...)` float32, in the manifest's order."""
    nothing = np.zeros((len(manifest), 0), np.float32)
    seeds = np.zeros(len(manifest), np.int64)
    images = Images(manifest.column("path"), manifest.column("sha256"), seeds, nothing, nothing[:0])
    spec = InputSpec(network.image_size, network.channels, network.resize)
    return extract(network.full, images, spec, network.row.extraction_batch, progress, "evaluate")
