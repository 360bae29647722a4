"""How an exported SavedModel becomes an MLflow model that loads where this package is not installed."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any


def save_pyfunc(path: Path, export_dir: Path, logged: Any, labels: Sequence[str], example: bytes) -> None:
    """Saves the SavedModel as an MLflow pyfunc model: one copy of the export and the script that asks it, no pickle."""
    import pandas as pd
    from mlflow import pyfunc
    from mlflow.models import Model

    model = Model(
        artifact_path=logged.artifact_location,
        model_uuid=logged.model_id,
        run_id=logged.source_run_id,
        model_id=logged.model_id,
    )
    pyfunc.save_model(
        path,
        python_model=Path(__file__).with_name("model_script.py"),
        artifacts={"export": str(export_dir)},
        mlflow_model=model,
        # Stated, because inferring them would load the model and take ten seconds.
        pip_requirements=[f"{name}=={version(name)}" for name in ("tensorflow", "numpy", "pandas")],
        signature=_signature(),
        input_example=pd.DataFrame({"image": [example]}),
        metadata={"labels": list(labels)},
    )
    # MLflow notes cloudpickle's version even where nothing is pickled, and paths that are this machine's business.
    flavor = model.flavors[pyfunc.FLAVOR_NAME]
    flavor.pop("cloudpickle_version", None)
    flavor["artifacts"]["export"]["uri"] = flavor["artifacts"]["export"]["path"]
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    model.save(str(path / "MLmodel"))


def _signature() -> Any:
    """Returns the table-to-table signature of `model_script.py`; JSON carries a binary column as base64."""
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
