"""ONNX: converted by tf2onnx, as Keras' own export is, and asked by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.export.formats.source import PROBABILITIES, Source
from pipeline.export.formats.table import Ask
from pipeline.export.savedmodel import PIXELS

#: The version of the operators: of 2021, so that runtimes of phones and browsers know all of them.
OPSET = 15

#: What the first dimension is called, which may be of any size.
BATCH = "batch"


def convert(source: Source, path: Path) -> None:
    """Writes the network as ONNX; its `metadata_props` hold `labels.txt` and `contract.json`."""
    import onnx
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    # Not tf2onnx' own `from_function`: small constants that a Keras layer holds, as Normalization does its mean, would
    # become inputs of the model (tf2onnx 1.17).
    frozen = convert_variables_to_constants_v2(
        source.function.get_concrete_function(), lower_control_flow=False, aggressive_inlining=True
    )
    pixels, probabilities = f"{PIXELS}:0", frozen.outputs[0].name
    model, _ = tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(add_shapes=True), input_names=[pixels], output_names=[probabilities], opset=OPSET,
        tensors_to_rename={pixels: PIXELS, probabilities: PROBABILITIES}, custom_op_handlers={"Erfc": (_erfc, [])},
    )  # fmt: skip
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH  # tf2onnx counts up names such as unk__35
    onnx.helper.set_model_props(model, source.metadata)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _erfc(graph: Any, node: Any, _name: str, _arguments: Sequence[Any]) -> None:
    """Writes 1 - erf(x) for erfc(x), which `gelu` is made of and tf2onnx 1.17 does not know."""
    (shape,), (dtype,) = node.output_shapes, node.output_dtypes
    one = graph.make_const(f"{node.name}_one", np.float32(1))
    graph.remove_node(node.name)
    erf = graph.make_node("Erf", node.input, shapes=[shape], dtypes=[dtype])
    inputs = [one.output[0], erf.output[0]]
    graph.make_node("Sub", inputs, name=node.name, outputs=node.output, shapes=[shape], dtypes=[dtype])


def load(path: Path) -> Ask:
    """Returns the function that asks the file, on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; they are raised too
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def ask(pixels: np.ndarray) -> np.ndarray:
        found: np.ndarray = session.run([PROBABILITIES], {PIXELS: pixels})[0]
        return found

    return ask
