"""The stage evaluate: one forward pass for each test image, and what follows from it."""

from __future__ import annotations

import keras
import numpy as np

from pipeline.config import EvaluateConfig, Resize
from pipeline.ingest.manifest import Manifest
from pipeline.progress import Progress
from pipeline.tasks.base import Evaluation, Task
from pipeline.train.dataset import Images, InputSpec, naming_bad_images
from pipeline.train.extraction import extract


def evaluate(
    model: keras.Model, task: Task, manifest: Manifest, config: EvaluateConfig, *, resize: Resize, batch_size: int,
    progress: Progress,
) -> Evaluation:  # fmt: skip
    """Returns the evaluation of a network (raw pixels -> logits) on the manifest's test split."""
    test = manifest.split("test")
    logits = predict_logits(model, test, resize=resize, batch_size=batch_size, progress=progress)
    images = {name: test.column(name) for name in ("id", "path", "label", "cluster")}
    train_labels = manifest.split("train").column("label")
    return task.evaluate(task.probabilities(logits), images, train_labels, manifest.classes, config)


def predict_logits(
    model: keras.Model, manifest: Manifest, *, resize: Resize, batch_size: int, progress: Progress
) -> np.ndarray:
    """Returns the logits of every image of the manifest as it is, `(N, C)` float32, in the manifest's order."""
    height, width, channels = model.input_shape[1:]
    nothing = np.zeros((len(manifest), 0), np.float32)
    seeds = np.zeros(len(manifest), np.int64)
    images = Images(manifest.column("path"), manifest.column("sha256"), seeds, nothing, nothing[:0])
    spec = InputSpec((height, width), channels, resize)
    with naming_bad_images(images.paths):
        return extract(model, images, spec, batch_size, progress, "evaluate")
