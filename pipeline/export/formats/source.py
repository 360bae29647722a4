"""What formats are converted from: the network with its calibration, pixels to probabilities and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.export.formats.table import Ask
from pipeline.export.golden import Original
from pipeline.export.savedmodel import PIXELS

#: Name of the one output.
PROBABILITIES = "probabilities"


@dataclass(frozen=True)
class Source:
    """A network, ready to be converted.

    Attributes:
        function: Pixels `(B, H, W, C)` float32 in [0, 255] -> `probabilities`, `(B, C)` float32.
        signature: Shape and type of the pixels.
        saved_model: A folder with the same as a SavedModel's default signature.
        labels: The classes, in the order of the probabilities.
        contract: What `contract.json` holds.
        calibration: Returns training images, `(N, H, W, C)` float32 in [0, 255]; their ranges are those of int8.
    """

    function: Any
    signature: tf.TensorSpec
    saved_model: Path
    labels: tuple[str, ...]
    contract: Mapping[str, Any]
    calibration: Callable[[], np.ndarray]

    @property
    def metadata(self) -> dict[str, str]:
        """What travels inside a file, by the names that files of the export have."""
        text = json.dumps(self.contract, ensure_ascii=False)
        return {"labels.txt": "".join(f"{label}\n" for label in self.labels), "contract.json": text}


@contextmanager
def prepare(original: Original, contract: Mapping[str, Any], calibration: Callable[[], np.ndarray]) -> Iterator[Source]:
    """Yields the source of all conversions; its SavedModel vanishes with the block.

    Made of the Keras model, as the export's SavedModel is: that one's signatures have strings among their outputs,
    which no other format takes.
    """
    signature = tf.TensorSpec((None, *original.model.input_shape[1:]), tf.float32, PIXELS)
    module = tf.Module()
    module.weights = [variable.value for variable in original.model.variables]

    def answer(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = original.model(pixels, training=False)
        outputs = original.task.serving_outputs(logits, original.classes, original.calibration)
        return {PROBABILITIES: outputs[PROBABILITIES]}

    module.answer = tf.function(answer, [signature], autograph=False)
    with _functions_inlined():
        module.answer.get_concrete_function()
    with TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, {"serving_default": module.answer})
        yield Source(module.answer, signature, Path(folder), tuple(original.classes), contract, calibration)


@contextmanager
def _functions_inlined() -> Iterator[None]:
    """Lets functions inside of what is traced in the block become part of it.

    Keras compiles a convolution in groups by XLA, as a function of its own that neither converter looks into.
    """
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def load(path: Path) -> Ask:
    """Returns the function that asks the signature `pixels` of the SavedModel whose `saved_model.pb` is at `path`.

    On the processor, as the other formats and the clean process that verifies the export: a GPU would round otherwise.
    """
    with tf.device("CPU"):
        model = tf.saved_model.load(str(path.parent))  # kept by `ask`: a signature does not keep the variables alive

    def ask(pixels: np.ndarray) -> np.ndarray:
        with tf.device("CPU"):
            found: np.ndarray = model.signatures[PIXELS](**{PIXELS: tf.constant(pixels)})[PROBABILITIES].numpy()
        return found

    return ask
