"""The MLflow UI: what it says when it cannot be shown, and that it answers and ends."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import TrackingError
from pipeline.tracking import MlflowTracker, serve_ui

SERVE = """
import pathlib, sys
from pipeline.tracking import serve_ui
serve_ui(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
"""


def find_free_port() -> int:
    with socket.socket() as candidate:
        candidate.bind(("127.0.0.1", 0))
        return int(candidate.getsockname()[1])


@pytest.fixture
def free_port() -> int:
    return find_free_port()


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_taken_port_is_told(root: Path, taken_port: int) -> None:
    with pytest.raises(TrackingError, match=rf"^port {taken_port} is taken; choose another: --port \d+$"):
        serve_ui(root, taken_port)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may use every port")
def test_forbidden_port_is_told(root: Path) -> None:
    with pytest.raises(TrackingError, match=r"^port 80 cannot be used \(.*--port"):
        serve_ui(root, 80)


def test_missing_store_is_told_and_not_made(tmp_path: Path, free_port: int) -> None:
    with pytest.raises(TrackingError, match=r"mlflow\.db is missing; make one with: pipeline run$"):
        serve_ui(tmp_path, free_port)
    assert list(tmp_path.iterdir()) == []


def test_store_named_by_the_environment_is_looked_for(
    root: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'other.db'}")
    with pytest.raises(TrackingError, match=r"other\.db is missing"):
        serve_ui(root, free_port)


def test_broken_store_is_told(tmp_path: Path, free_port: int) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, whatever its name")
    with pytest.raises(TrackingError, match=r"could not read the runs .* file is not a database"):
        serve_ui(tmp_path, free_port)


def test_server_of_others_is_pointed_to(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example.org")
    serve_ui(tmp_path, free_port)
    (line,) = capsys.readouterr().out.splitlines()
    assert "https://mlflow.example.org" in line


def status_of(port: int, path: str) -> int | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_answers_until_it_is_interrupted(root: Path, free_port: int, number: signal.Signals, code: int) -> None:
    tracker = MlflowTracker(root)
    tracker.start(experiment="stamps", run_name="stamps-1")
    tracker.finish("FINISHED")
    before = set(root.iterdir())
    command = [sys.executable, "-c", SERVE, str(root), str(free_port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            for _ in range(120):
                if status_of(free_port, "/health") == 200 or server.poll() is not None:
                    break
                time.sleep(0.5)
            answer = status_of(free_port, "/")
            time.sleep(1)  # for the line, which is printed once the port answers
        finally:
            server.send_signal(number)
        out, err = server.communicate(timeout=30)
    assert (answer, server.returncode, err) == (200, code, "")
    (line,) = out.splitlines()
    assert line.startswith(f"MLflow UI: http://127.0.0.1:{free_port}/#/experiments/1/runs?")
    assert status_of(free_port, "/health") is None  # no orphan goes on serving
    assert set(root.iterdir()) == before
