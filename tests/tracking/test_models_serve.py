"""The logged model behind MLflow's own server: `mlflow models serve`, asked over HTTP."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from subjects import CLASSES, publish_small

from pipeline.loopback import free_port
from pipeline.tracking import MlflowTracker

#: Seconds that MLflow's server may take to load TensorFlow and the model, beside other work.
PATIENCE = 180

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish_small(tmp_path_factory.mktemp("served run") / "export")


@pytest.fixture
def address(published: Path, tracker: MlflowTracker, root: Path, tmp_path: Path) -> Iterator[str]:
    """Returns where the server answers; its process knows neither this package nor this test's environment."""
    tracker.start(experiment="stamps", run_name="stamps-1")
    example = (published / "golden" / "test-01.png").read_bytes()
    model_id = tracker.log_model(published, labels=CLASSES, example=example)
    port = free_port()
    command = [str(Path(sys.executable).parent / "mlflow"), "models", "serve", "--env-manager", "local"]
    command += ["--model-uri", f"models:/{model_id}", "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"]), "HOME": str(tmp_path),
        "MLFLOW_TRACKING_URI": f"sqlite:///{root / 'mlflow.db'}", "MLFLOW_DISABLE_TELEMETRY": "true",
    }  # fmt: skip
    log = tmp_path / "server.log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdout=file, stderr=file, start_new_session=True
        )
    try:
        end = time.monotonic() + PATIENCE
        while not answers(port):
            assert server.poll() is None, log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < end, log.read_text(errors="replace")[-3000:]
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def ask(address: str, images: list[str]) -> list[dict[str, Any]]:
    request = {"dataframe_split": {"columns": ["image"], "data": [[image] for image in images]}}
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(address, json.dumps(request).encode(), headers), timeout=120
    ) as answer:
        found: list[dict[str, Any]] = json.load(answer)["predictions"]
        return found


def test_it_answers_as_the_trained_network_did(address: str, published: Path) -> None:
    golden = json.loads((published / "golden" / "golden.json").read_text())["answers"]
    contents = [(published / "golden" / answer["file"]).read_bytes() for answer in golden]
    rows = ask(address, [base64.b64encode(content).decode() for content in contents])
    assert len(rows) == len(golden)
    for wanted, row in zip(golden, rows, strict=True):
        if wanted.get("bad"):
            assert row["error"], wanted["file"]
            assert (row["label"], row["class_id"], row["probability"], row["confident"]) == ("", -1, 0, False)
            continue
        assert row["probabilities"] == pytest.approx(wanted["probabilities"], abs=1e-4)
        assert row["probability"] == pytest.approx(max(wanted["probabilities"]), abs=1e-4)
        assert (row["label"], row["confident"], row["error"]) == (wanted["label"], wanted["confident"], "")
    assert sum(bool(wanted.get("bad")) for wanted in golden) == 4
    (row,) = ask(address, ["no base64!"])
    assert (row["label"], row["error"]) == ("", "holds no JPEG, PNG, GIF, BMP or WebP image that can be recognised")
