"""The network, its decoder, its labels and its contract as one SavedModel."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from pipeline.config import Resize
from pipeline.export.predict import BYTES
from pipeline.files import atomic_path
from pipeline.images.guard import decode_apart
from pipeline.tasks.base import UNCALIBRATED, Calibration, Task

#: Name of the second signature and of its input.
PIXELS = "pixels"

#: Name of the third signature, which takes nothing, and of its output.
CONTRACT = "contract"

#: Name of the output that says what is wrong with an image.
ERROR = "error"


def export_savedmodel(
    model: keras.Model, task: Task, classes: Sequence[str], folder: Path, *, resize: Resize = "stretch",
    calibration: Calibration = UNCALIBRATED, contract: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Writes a SavedModel and `labels.txt` to `folder`, which is whole or absent afterwards.

    Signatures: `serving_default` takes `image_bytes`, `(B,)` strings, each an encoded image of any size, brought
    to the network's by `resize`; `pixels` takes `(B, H, W, C)` float32 in [0, 255]. Both return what
    `task.serving_outputs` names, with the calibration as part of the graph; `serving_default` also `error`, `(B,)`
    strings: empty, or what is wrong with an image, whose other outputs are then empty strings, zeros, False, and -1
    among whole numbers. `contract` takes nothing and returns the contract as JSON, so that it cannot be lost.
    """
    height, width, channels = model.input_shape[1:]

    def from_pixels(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return task.serving_outputs(model(pixels, training=False), classes, calibration)

    def from_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels, error = decode_apart(image_bytes, (height, width), channels, resize)
        good, count = tf.equal(error, ""), tf.size(error)
        # TensorFlow's convolutions fail over a batch of nothing.
        some = tf.cond(count > 0, lambda: pixels, lambda: tf.zeros((1, height, width, channels)))
        answers = {name: answer[:count] for name, answer in from_pixels(some).items()}
        return {name: _blank_unless(good, answer) for name, answer in answers.items()} | {ERROR: error}

    served = tf.Module()
    served.weights = [
        variable.value for variable in model.variables
    ]  # keras.export.ExportArchive would write them twice
    served.from_bytes = tf.function(from_bytes, [tf.TensorSpec((None,), tf.string, BYTES)])
    served.from_pixels = tf.function(from_pixels, [tf.TensorSpec((None, height, width, channels), tf.float32, PIXELS)])
    text = json.dumps(contract or {}, ensure_ascii=False)
    served.contract = tf.function(lambda: {CONTRACT: tf.constant(text)}, [])
    signatures = {"serving_default": served.from_bytes, PIXELS: served.from_pixels, CONTRACT: served.contract}
    with atomic_path(folder) as draft:
        tf.saved_model.save(served, str(draft), signatures)
        (draft / "labels.txt").write_text("".join(f"{label}\n" for label in classes), encoding="utf-8")


def _blank_unless(good: tf.Tensor, answer: tf.Tensor) -> tf.Tensor:
    """Returns `(B, ...)` answers with nothing in the rows of bad images.

    Zeros rather than NaN, which JSON, and so TensorFlow Serving's REST interface, cannot carry; that they do not sum to
    1 tells them from probabilities.
    """
    nothing = tf.constant(-1, answer.dtype) if answer.dtype.is_integer else tf.zeros([], answer.dtype)
    rows = tf.reshape(good, tf.concat([tf.shape(good), tf.ones([tf.rank(answer) - 1], tf.int32)], axis=0))
    return tf.where(rows, answer, nothing)
