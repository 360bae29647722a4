"""LiteRT, TensorFlow Lite before: converted by TensorFlow, asked by LiteRT's own interpreter."""

from __future__ import annotations

import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.export.formats.source import PROBABILITIES, Source
from pipeline.export.formats.table import Ask
from pipeline.export.savedmodel import PIXELS


def to_float32(source: Source, path: Path) -> None:
    """Writes the network as it is."""
    _write(_converter(source), source, path)


def to_float16(source: Source, path: Path) -> None:
    """Writes the network with float16 weights; what is computed with them is float32 on most processors."""
    converter = _converter(source)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    _write(converter, source, path)


def to_int8(source: Source, path: Path) -> None:
    """Writes the network with int8 weights and activations; pixels and probabilities stay float32.

    The ranges of the activations are those that the calibration images show.
    """
    converter, images = _converter(source), source.calibration()
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ({PIXELS: image[np.newaxis]} for image in images)
    # No other operators: one that has no int8 would be left in float32, without a word.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    _write(converter, source, path)


def _converter(source: Source) -> Any:
    return tf.lite.TFLiteConverter.from_saved_model(str(source.saved_model))


def _write(converter: Any, source: Source, path: Path) -> None:
    with warnings.catch_warnings():
        # TensorFlow calibrates with its own interpreter, and warns of it.
        warnings.filterwarnings("ignore", "(?s).*tf.lite.Interpreter is deprecated", UserWarning)
        path.write_bytes(converter.convert())
    # Where TensorFlow Lite's metadata has files: a ZIP archive behind the model, which `unzip` opens as it is.
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, text in source.metadata.items():
            archive.writestr(zipfile.ZipInfo(name), text)  # of 1980: the same export is the same bytes


def load(path: Path) -> Ask:
    """Returns the function that asks the file, on all cores."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(path), num_threads=os.cpu_count() or 1).get_signature_runner()

    def ask(pixels: np.ndarray) -> np.ndarray:
        found: np.ndarray = runner(**{PIXELS: pixels})[PROBABILITIES]
        return found

    return ask
