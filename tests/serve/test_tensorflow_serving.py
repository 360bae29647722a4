"""The export as TensorFlow Serving sees it: its signature, and requests and answers as its REST interface writes them.

The rules are those of its sources (tensorflow_serving/util/json_tensor.cc). Where its binary is installed, it is asked.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from subjects import CLASSES, publish_small

from pipeline.loopback import free_port

SERVER = shutil.which("tensorflow_model_server")

Rest = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish_small(tmp_path_factory.mktemp("run") / "export")


@pytest.fixture(scope="module")
def golden(published: Path) -> dict[str, dict[str, Any]]:
    document = json.loads((published / "golden" / "golden.json").read_text())
    return {answer["file"]: answer for answer in document["answers"]}


def encoded(published: Path, name: str) -> dict[str, str]:
    return {"b64": base64.b64encode((published / "golden" / name).read_bytes()).decode()}


# What the tool that comes with TensorFlow says.


@pytest.mark.slow
def test_the_signature_is_listed_by_saved_model_cli(published: Path) -> None:
    command = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", "show", "--dir", str(published)]
    listed = subprocess.run(
        [*command, "--tag_set", "serve", "--signature_def", "serving_default"],
        capture_output=True,
        text=True,
        check=True,
    )
    words = " ".join(listed.stdout.split())
    assert "inputs['image_bytes'] tensor_info: dtype: DT_STRING shape: (-1)" in words
    for name, kind, shape in (
        ("class_id", "DT_INT64", "(-1)"), ("confident", "DT_BOOL", "(-1)"), ("error", "DT_STRING", "(-1)"),
        ("label", "DT_STRING", "(-1)"), ("probabilities", "DT_FLOAT", f"(-1, {len(CLASSES)})"),
    ):  # fmt: skip
        assert f"outputs['{name}'] tensor_info: dtype: {kind} shape: {shape} name: " in words
    assert words.endswith("Method name is: tensorflow/serving/predict")
    assert words.count("inputs['") == 1


# Requests and answers by its rules.


def read_request(request: dict[str, Any], name: str) -> list[bytes]:
    """Returns the string tensor that the only input `name` is given by a request in row form, `(B,)`.

    A row is the value itself, or an object that names the input. A value is `{"b64": ...}`, of which base64 is undone,
    or a text, which is taken as it is: base64 without the braces is not an image.
    """
    values = []
    for row in request["instances"]:
        if isinstance(row, dict) and [*row] != ["b64"]:
            assert [*row] == [name]
            row = row[name]
        values.append(base64.b64decode(row["b64"]) if isinstance(row, dict) else row.encode())
    return values


def write_answer(outputs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Returns an answer in row form: an object a row, of all outputs, which must have the same first dimension.

    Texts are written as they are, in base64 only those of an output whose name ends in `_bytes`.
    """
    (count,) = {len(values) for values in outputs.values()}

    def plain(name: str, value: Any) -> Any:
        if isinstance(value, bytes):
            return {"b64": base64.b64encode(value).decode()} if name.endswith("_bytes") else value.decode()
        return value

    rows = [{name: plain(name, values[row].tolist() if values.dtype != object else values[row])
             for name, values in outputs.items()} for row in range(count)]  # fmt: skip
    document: dict[str, Any] = json.loads(json.dumps({"predictions": rows}, allow_nan=False))
    return document


@pytest.fixture(scope="module")
def by_the_rules(published: Path) -> Rest:
    model = tf.saved_model.load(str(published))
    signature = model.signatures["serving_default"]

    def ask(request: dict[str, Any]) -> dict[str, Any]:
        (name,) = signature.structured_input_signature[1]
        contents = read_request(request, name)
        return write_answer({key: value.numpy() for key, value in signature(**{name: tf.constant(contents)}).items()})

    ask.model = model  # type: ignore[attr-defined]  # a signature does not keep its variables alive
    return ask


@pytest.fixture(scope="module")
def by_the_server(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rest]:
    if SERVER is None:
        pytest.skip("tensorflow_model_server is not installed, so TensorFlow Serving itself was not asked")
    base = tmp_path_factory.mktemp("models") / "photos"
    shutil.copytree(published, base / "1")
    port = free_port()
    command = [SERVER, f"--rest_api_port={port}", f"--port={free_port()}", "--model_name=photos"]
    log = base.parent / "server.log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            [*command, f"--model_base_path={base}"], stdout=file, stderr=file, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}/v1/models/photos"
    try:
        end = time.monotonic() + 120
        while not _available(address):
            assert server.poll() is None, log.read_text(errors="replace")[-2000:]
            assert time.monotonic() < end
            time.sleep(0.2)
        yield lambda request: _posted(f"{address}:predict", request)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _available(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return "AVAILABLE" in answer.read().decode()
    except OSError:
        return False


def _posted(address: str, request: dict[str, Any]) -> dict[str, Any]:
    with urllib.request.urlopen(address, data=json.dumps(request).encode(), timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


@pytest.fixture(params=["by_the_rules", "by_the_server"])
def rest(request: pytest.FixtureRequest) -> Rest:
    asked: Rest = request.getfixturevalue(request.param)
    return asked


@pytest.mark.parametrize("named", [False, True], ids=["bare", "named"])
def test_golden_images_get_their_answers(
    named: bool, rest: Rest, published: Path, golden: dict[str, dict[str, Any]]
) -> None:
    rows: list[Any] = [encoded(published, name) for name in golden]
    answers = rest({"instances": [{"image_bytes": row} for row in rows] if named else rows})["predictions"]
    assert len(answers) == len(golden)
    for wanted, answer in zip(golden.values(), answers, strict=True):
        assert set(answer) == {"label", "class_id", "probabilities", "confident", "error"}
        if wanted.get("bad"):
            assert answer["error"]
            assert (answer["label"], answer["class_id"], answer["confident"]) == ("", -1, False)
            continue
        assert answer["probabilities"] == pytest.approx(wanted["probabilities"], abs=1e-4)
        assert (answer["label"], answer["confident"], answer["error"]) == (wanted["label"], wanted["confident"], "")
        assert CLASSES[answer["class_id"]] == wanted["label"]


def test_base64_without_its_braces_is_a_bad_image_not_a_wrong_answer(rest: Rest, published: Path) -> None:
    text = encoded(published, "test-01.png")["b64"]
    (answer,) = rest({"instances": [text]})["predictions"]
    assert answer["error"].startswith("holds no JPEG, PNG")
    assert not any(answer["probabilities"])


def test_no_answer_needs_decoding(published: Path) -> None:
    """An output whose name ended in `_bytes` would arrive in base64."""
    model = tf.saved_model.load(str(published))
    outputs = model.signatures["serving_default"].structured_outputs
    assert {name for name, spec in outputs.items() if spec.dtype == tf.string} == {"label", "error"}
    assert not [name for name in outputs if name.endswith("_bytes")]
