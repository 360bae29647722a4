"""The stage export: the network, its decoder and its labels as one SavedModel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

from pipeline.config import Resize
from pipeline.export.predict import BYTES
from pipeline.files import atomic_path
from pipeline.images.graph import decode_batch
from pipeline.tasks.base import UNCALIBRATED, Calibration, Task

#: Name of the second signature and of its input.
PIXELS = "pixels"


def export_savedmodel(
    model: keras.Model, task: Task, classes: Sequence[str], folder: Path, *, resize: Resize = "stretch",
    calibration: Calibration = UNCALIBRATED,
) -> None:  # fmt: skip
    """Writes a SavedModel and `labels.txt` to `folder`, which is whole or absent afterwards.

    Signatures: `serving_default` takes `image_bytes`, `(B,)` strings, each an encoded image of any size, brought
    to the network's by `resize`; `pixels` takes `(B, H, W, C)` float32 in [0, 255]. Both return what
    `task.serving_outputs` names, with the calibration as part of the graph.
    """
    height, width, channels = model.input_shape[1:]

    def from_pixels(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return task.serving_outputs(model(pixels, training=False), classes, calibration)

    def from_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return from_pixels(decode_batch(image_bytes, (height, width), channels, resize))

    served = tf.Module()
    served.weights = [
        variable.value for variable in model.variables
    ]  # keras.export.ExportArchive would write them twice
    served.from_bytes = tf.function(from_bytes, [tf.TensorSpec((None,), tf.string, BYTES)])
    served.from_pixels = tf.function(from_pixels, [tf.TensorSpec((None, height, width, channels), tf.float32, PIXELS)])
    signatures = {"serving_default": served.from_bytes, PIXELS: served.from_pixels}
    with atomic_path(folder) as draft:
        tf.saved_model.save(served, str(draft), signatures)
        (draft / "labels.txt").write_text("".join(f"{label}\n" for label in classes), encoding="utf-8")
