"""The script that travels inside a logged MLflow model: an exported SavedModel behind MLflow's pyfunc interface.

MLflow copies this one file into the model and runs it where the model is loaded ("models from code"). That machine need
not have `transfer-pipeline`, so nothing of this package is imported, and no pickle is involved.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

BATCH_SIZE = 32  # bounds the memory that decoded images take, however long the table is


class ImageClassifier(PythonModel):
    """A SavedModel's `serving_default` signature as a function from table to table."""

    def load_context(self, context: Any) -> None:
        """Loads the SavedModel, the artifact `export`."""
        import tensorflow as tf

        # Kept beside its signature, which does not keep it alive: without it the variables are gone at the first call.
        self._saved_model = tf.saved_model.load(context.artifacts["export"])
        self._serve = self._saved_model.signatures["serving_default"]

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Returns a row an image: `label`, `class_id`, `probability`, `probabilities`, `confident`, `error`.

        `probability` is the label's, `probabilities` are those of all classes. `error` is empty, or says what is wrong
        with an image; its label is empty then, its class id -1, its probabilities are 0.

        Args:
            context: Part of MLflow's interface; not needed once the model is loaded.
            model_input: Its column `image` holds one encoded image per row, as bytes or as a base64 string.
            params: Part of MLflow's interface; this model has none.
        """
        images = [_bytes_of(image) for image in model_input["image"]]
        # At least one batch, so that an empty table comes back with its columns.
        starts = range(0, max(len(images), 1), BATCH_SIZE)
        answers = pd.concat([self._predict_batch(images[start : start + BATCH_SIZE]) for start in starts])
        return answers.set_axis(model_input.index)

    def _predict_batch(self, images: list[bytes]) -> pd.DataFrame:
        """Returns the rows of one batch of at most `BATCH_SIZE` images."""
        import tensorflow as tf

        outputs = self._serve(image_bytes=tf.constant(images, tf.string, shape=(len(images),)))
        probabilities = outputs["probabilities"].numpy().astype(np.float64)  # (B, C) in [0, 1]
        return pd.DataFrame(
            {
                "label": [label.decode() for label in outputs["label"].numpy()],
                "class_id": outputs["class_id"].numpy(),
                "probability": probabilities.max(axis=1),
                "probabilities": probabilities.tolist(),
                "confident": outputs["confident"].numpy(),
                "error": [error.decode() for error in outputs["error"].numpy()],
            }
        )


def _bytes_of(image: Any) -> bytes:
    """Returns an encoded image, given as it is or in base64; of what is neither something that is no image."""
    if isinstance(image, str):
        try:
            return base64.b64decode(image)
        except ValueError:
            return b"not base64"
    return bytes(image) if isinstance(image, bytes | bytearray | memoryview) else b""


set_model(ImageClassifier())
