"""The table of formats, and what must be installed for each. Nothing heavy is loaded here."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ConfigError
from pipeline.export.verify import TOLERANCE

if TYPE_CHECKING:
    from pipeline.export.formats.source import Source

#: Pixels `(B, H, W, C)` float32 in [0, 255] -> probabilities `(B, C)` float32.
Ask = Callable[[np.ndarray], np.ndarray]

#: What the formats of `export.formats` are made and asked with: by the name of the extra, which packages bring.
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "saved_model": (),
    "onnx": ("onnx", "onnxruntime", "tf2onnx"),
    "litert": ("ai_edge_litert",),
}


@dataclass(frozen=True)
class Format:
    """One file that an export may hold.

    Attributes:
        name: In `formats.json`, in metrics and in what is printed.
        asked_by: The name in `export.formats` that asks for it.
        file: Where it stands in the export.
        tolerance: The largest difference in a probability of a golden image with which it is published.
        runtime: The package that answers with it.
        load: `module:function` that returns an `Ask` from the path.
        convert: `module:function` that writes it from a `Source`; empty where the export has it anyway.
    """

    name: str
    asked_by: str
    file: str
    tolerance: float
    runtime: str
    load: str
    convert: str = ""

    def write(self, source: Source, path: Path) -> None:
        """Converts the network to `path`."""
        path.parent.mkdir(exist_ok=True)
        _function(self.convert)(source, path)

    def open(self, path: Path) -> Ask:
        """Returns the function that asks the file at `path`."""
        ask: Ask = _function(self.load)(path)
        return ask

    @property
    def askable(self) -> bool:
        """Whether the runtime is installed."""
        return importlib.util.find_spec(self.runtime) is not None


def _function(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


#: Of float16 weights: no label that leads by 0.1 or more can change. A hundred times what a float32 may be off, and
#: four times what EfficientNet-Lite0 is (docs/export.md), since some processors compute in float16 too.
_HALF = 0.05

#: Of int8: no label that leads by 0.5 or more, which is clear-cut, can change. With 256 steps for an activation two
#: likely classes lie within each other's reach; where a probability moves by more, accuracy has been seen to suffer.
_COARSE = 0.25

_HERE = "pipeline.export.formats"
_LITERT = ("ai_edge_litert", f"{_HERE}.litert:load")

#: In the order in which they are made and listed.
FORMATS = (
    Format("saved_model", "saved_model", "saved_model.pb", TOLERANCE, "tensorflow", f"{_HERE}.source:load"),
    Format("onnx", "onnx", "onnx/model.onnx", TOLERANCE, "onnxruntime", f"{_HERE}.onnx:load", f"{_HERE}.onnx:convert"),
    Format("litert_float32", "litert", "litert/float32.tflite", TOLERANCE, *_LITERT, f"{_HERE}.litert:to_float32"),
    Format("litert_float16", "litert", "litert/float16.tflite", _HALF, *_LITERT, f"{_HERE}.litert:to_float16"),
    Format("litert_int8", "litert", "litert/int8.tflite", _COARSE, *_LITERT, f"{_HERE}.litert:to_int8"),
)


def check_installed(asked: Collection[str]) -> None:
    """Looks whether all packages are there that the formats of `export.formats` need.

    Raises:
        ConfigError: One is not; the message has the command that installs it.
    """
    for extra in asked:
        missing = [package for package in PACKAGES[extra] if importlib.util.find_spec(package) is None]
        if missing:
            raise ConfigError(
                f"export.formats: {extra} needs {' and '.join(missing)}, not installed here; "
                f"pip install 'transfer-pipeline[{extra}]', or leave {extra} out"
            )
