"""transfer-pipeline: retrain a vision model on a folder of labelled images."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# These are read once, when the library loads, so they stand before any heavy import. `setdefault` leaves a user's own
# choice alone. oneDNN is off by default on some processors and changes the last bits of a result: fixing it here makes
# one machine's runs comparable with each other.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# albumentations and MLflow ask the network at import or first use; nothing here may connect unannounced.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# A pickle runs what its maker wants. Nothing here writes one, so none has to be read.
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")

if TYPE_CHECKING:
    from pipeline.config import Config, load_config
    from pipeline.errors import PipelineError
    from pipeline.export.predict import Predictor
    from pipeline.plan import Request
    from pipeline.run import RunResult, run_pipeline

__all__ = ["Config", "PipelineError", "Predictor", "Request", "RunResult", "load_config", "run_pipeline"]

_HOME = {
    "Config": "pipeline.config",
    "PipelineError": "pipeline.errors",
    "Predictor": "pipeline.export.predict",
    "Request": "pipeline.plan",
    "RunResult": "pipeline.run",
    "load_config": "pipeline.config",
    "run_pipeline": "pipeline.run",
}


def __getattr__(name: str) -> Any:
    """Returns a public name, its module loaded only now: `import pipeline` alone costs nothing."""
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
