"""How an exported SavedModel becomes an MLflow model that loads where this package is not installed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any


def save_pyfunc(path: Path, export_dir: Path, logged: Any, labels: Sequence[str], example: bytes) -> None:
    """Saves the SavedModel as an MLflow pyfunc model: its loader as source code, no pickle."""
    import pandas as pd
    from mlflow import pyfunc
    from mlflow.models import Model

    loader = Path(__file__).parents[1] / "export" / "pyfunc_loader.py"
    pyfunc.save_model(
        path,
        loader_module=loader.stem,
        data_path=str(export_dir),
        code_paths=[str(loader)],
        mlflow_model=Model(
            artifact_path=logged.artifact_location,
            model_uuid=logged.model_id,
            run_id=logged.source_run_id,
            model_id=logged.model_id,
        ),
        # Stated, because inferring them would load the model and take ten seconds.
        pip_requirements=[f"{name}=={version(name)}" for name in ("tensorflow", "numpy", "pandas")],
        signature=_signature(),
        input_example=pd.DataFrame({"image": [example]}),
        metadata={"labels": list(labels)},
    )


def _signature() -> Any:
    """Returns the table-to-table signature of `export/pyfunc_loader.py`; JSON carries a binary column as base64."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "image")]),
        outputs=Schema(
            [
                ColSpec(DataType.string, "label"),
                ColSpec(DataType.long, "class_id"),
                ColSpec(DataType.double, "probability"),
                ColSpec(Array(DataType.double), "probabilities"),
                ColSpec(DataType.boolean, "confident"),
                ColSpec(DataType.string, "error"),
            ]
        ),
    )
