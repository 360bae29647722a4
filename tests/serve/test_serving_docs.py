"""docs/serving.md: its commands are run as they stand there, but for the port, and its numbers are the code's."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import running
from subjects import publish_small
from test_tensorflow_serving import read_request

from pipeline.export.predict import Predictor
from pipeline.images.headers import PIXEL_LIMIT
from pipeline.serve import gate, server
from pipeline.serve.server import PageServer, load_contract

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
SHELL = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
(PYTHON,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish_small(tmp_path_factory.mktemp("run") / "export")


@pytest.fixture(scope="module")
def page_server(published: Path) -> Iterator[PageServer]:
    with running(Predictor(published).predict_contents, load_contract(published)) as server:
        yield server


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """Returns a folder with a `photo.jpg`."""
    shutil.copy(next((published / "golden").glob("test-*.jpg")), tmp_path / "photo.jpg")
    return tmp_path


@pytest.fixture
def wanted(published: Path, folder: Path) -> dict[str, Any]:
    contents = (folder / "photo.jpg").read_bytes()
    document = json.loads((published / "golden" / "golden.json").read_text())
    found: dict[str, Any] = next(
        answer for answer in document["answers"] if (published / "golden" / answer["file"]).read_bytes() == contents
    )
    return found


def run(*command: str, folder: Path, path: str = "") -> str:
    environment = os.environ | {"PATH": f"{path}{os.pathsep}{os.environ['PATH']}" if path else os.environ["PATH"]}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def sent(command: str, folder: Path) -> dict[str, Any]:
    """Returns the JSON that a command gives to curl."""
    curl = folder / "bin" / "curl"
    curl.parent.mkdir()
    curl.write_text("#!/bin/sh\ncat\n")
    curl.chmod(0o755)
    document: dict[str, Any] = json.loads(run("sh", "-c", command, folder=folder, path=str(curl.parent)))
    return document


@needs_curl
def test_the_page_is_asked_by_curl(page_server: PageServer, folder: Path, wanted: dict[str, Any]) -> None:
    (command,) = [text for text in SHELL if "8080" in text]
    answer = json.loads(run("sh", "-c", command.replace("8080", str(page_server.server_port)), folder=folder))
    assert [*answer["probabilities"].values()] == pytest.approx(wanted["probabilities"], abs=1e-4)


def test_the_page_is_asked_by_python(page_server: PageServer, folder: Path, wanted: dict[str, Any]) -> None:
    script = PYTHON.replace("8080", str(page_server.server_port))
    printed = run(sys.executable, "-c", script, folder=folder)
    assert printed == f"{wanted['label']} {max(wanted['probabilities']):.3f}\n"


def test_tensorflow_serving_is_sent_the_image(folder: Path) -> None:
    (command,) = [text for text in SHELL if "8501" in text]
    assert read_request(sent(command, folder), "image_bytes") == [(folder / "photo.jpg").read_bytes()]


def test_mlflow_is_sent_the_image(folder: Path) -> None:
    (command,) = [text for text in SHELL if "5001" in text]
    table = sent(command, folder)["dataframe_split"]
    assert (table["columns"], len(table["data"])) == (["image"], 1)
    assert base64.b64decode(table["data"][0][0], validate=True) == (folder / "photo.jpg").read_bytes()


def test_its_limits_are_the_codes() -> None:
    assert f"more than {gate.UPLOAD_LIMIT / 2**20:.0f} MiB" in PAGE
    assert f"the whole request has {server.PATIENCE:.0f} s" in PAGE
    assert f"{server.CONNECTIONS} at a time, the next gets 503; {server.ASKED} images at a time" in PAGE
    assert f"({PIXEL_LIMIT // 10**6}\nmegapixels)" in PAGE
