"""A logged model of somebody else's that holds a pickle is not loaded: a pickle runs what its maker wants."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SAVE = """
import sys, mlflow.pyfunc

class Pickled(mlflow.pyfunc.PythonModel):
    def __reduce__(self):
        return (open, ("planted.txt", "w"))

    def predict(self, context, model_input: list[str]) -> list[str]:
        return model_input

mlflow.pyfunc.save_model(sys.argv[1], python_model=Pickled(), pip_requirements=[])
"""

LOAD = """
import sys, pipeline, mlflow.pyfunc
mlflow.pyfunc.load_model(sys.argv[1])
"""


@pytest.mark.parametrize("allowed", [False, True])
def test_a_pickle_is_refused_unless_the_user_allows_it(allowed: bool, tmp_path: Path) -> None:
    name = "MLFLOW_ALLOW_PICKLE_DESERIALIZATION"
    environment = {key: value for key, value in os.environ.items() if key != name}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))

    def python(script: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "ignore", "-c", script, "model"]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env={**environment, **more}, check=False
        )

    saved = python(SAVE)
    assert saved.returncode == 0, saved.stderr
    (tmp_path / "planted.txt").unlink(missing_ok=True)
    loaded = python(LOAD, **({name: "true"} if allowed else {}))
    assert (tmp_path / "planted.txt").exists() is allowed, loaded.stderr
    assert (name in loaded.stderr) is not allowed
