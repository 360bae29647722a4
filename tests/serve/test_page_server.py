"""The server of the page on a real export: the golden answers, bad images, and how it begins and ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import urllib.request
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image
from serving import CONTRACT, running
from subjects import publish_small

from pipeline.cli import cli
from pipeline.errors import ConfigError, ExportError
from pipeline.export.predict import Predictor
from pipeline.loopback import free_port
from pipeline.serve.server import PageServer, load_contract

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish_small(tmp_path_factory.mktemp("run") / "export")


@pytest.fixture(scope="module")
def server(published: Path) -> Iterator[PageServer]:
    with running(Predictor(published).predict_contents, load_contract(published)) as server:
        yield server


def ask(address: str, contents: bytes) -> dict[str, Any]:
    with urllib.request.urlopen(f"{address}predict", data=contents, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def golden(export: Path) -> dict[str, Any]:
    document = json.loads((export / "golden" / "golden.json").read_text())
    return {answer["file"]: answer for answer in document["answers"]}


def test_golden_images_get_the_recorded_answers_however_many_ask(published: Path, server: PageServer) -> None:
    recorded = golden(published)
    names = [name for name in recorded if not recorded[name].get("bad")] * 3
    with ThreadPoolExecutor(6) as clients:
        answers = list(clients.map(lambda name: ask(server.address, (published / "golden" / name).read_bytes()), names))
    labels = (published / "labels.txt").read_text().splitlines()
    for name, answer in zip(names, answers, strict=True):
        wanted = recorded[name]
        assert list(answer["probabilities"]) == labels
        assert list(answer["probabilities"].values()) == pytest.approx(wanted["probabilities"], abs=1e-4)
        assert (answer["label"], answer["confident"]) == (wanted["label"], wanted["confident"])
        assert answer["probability"] == max(answer["probabilities"].values())
        assert (answer["error"], answer["threshold"]) == (None, 0.5)
    assert {answer["confident"] for answer in answers} == {True, False}


def test_bad_images_get_their_error(published: Path, server: PageServer) -> None:
    bad = [name for name, answer in golden(published).items() if answer.get("bad")]
    for contents in [b"<html>", *((published / "golden" / name).read_bytes() for name in bad)]:
        answer = ask(server.address, contents)
        assert (answer["label"], answer["probability"], answer["probabilities"]) == ("", None, {})
        assert answer["error"]


def whole_bomb() -> bytes:
    """Returns a PNG of 3 KB that lacks nothing but the sense: 90,000 x 90,000 pixels are 24 GB."""
    pieces = [(b"IHDR", struct.pack(">IIBBBBB", 90_000, 90_000, 8, 2, 0, 0, 0))]
    pieces += [(b"IDAT", zlib.compress(bytes(2**21))), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in pieces
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_a_decompression_bomb_is_refused_by_its_header(server: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", never)
    assert ask(server.address, whole_bomb())["error"].endswith("over 100,000,000 pixels; scale the image down")


def test_other_images_than_the_graph_reads_are_answered_as_by_predict(
    published: Path, server: PageServer, tmp_path: Path
) -> None:
    path = tmp_path / "photo.tif"
    with Image.open(next((published / "golden").glob("test-*.png"))) as image:
        image.save(path)
    (wanted,) = Predictor(published).predict([path])
    assert ask(server.address, path.read_bytes())["probabilities"] == pytest.approx(
        dict(wanted.probabilities), abs=1e-6
    )


# How it begins.


def call(*words: object) -> str:
    """Returns the one line of an error."""
    result = CliRunner().invoke(cli, ["serve", *map(str, words)], catch_exceptions=False)
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    return line


def test_what_is_no_export_is_told(tmp_path: Path) -> None:
    assert "gone holds no contract.json that can be read (No such file or directory); name an" in call(
        tmp_path / "gone"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{", "Expecting property name"), ("[]", "it lacks one of run"), ("\xff", "codec"), ('{"run": "a"}', "it lacks"),
     (json.dumps({**CONTRACT, "threshold": "high"}), "it lacks"), (json.dumps({**CONTRACT, "run": 7}), "it lacks")],
)  # fmt: skip
def test_a_contract_that_is_none_is_told(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "contract.json").write_text(text, encoding="latin-1")
    with pytest.raises(ExportError, match=reason) as caught:
        load_contract(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_taken_port_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    """The folder holds no model that could be loaded."""
    (tmp_path / "contract.json").write_text(json.dumps(CONTRACT))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        line = call(tmp_path, "--port", port)
    assert line.startswith(f"error: port {port} is taken; choose another: --port ")
    with PageServer(CONTRACT, int(line.rpartition(" ")[2])):  # the other is free
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may use every port")
def test_a_forbidden_port_is_told() -> None:
    with pytest.raises(ConfigError, match=r"^port 80 cannot be used \(.*--port"):
        PageServer(CONTRACT, 80)


def test_a_contract_without_its_model_is_told(published: Path, tmp_path: Path) -> None:
    shutil.copy(published / "contract.json", tmp_path)
    assert "holds no saved_model.pb" in call(tmp_path, "--port", free_port())


# How it ends.


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_answers_until_it_is_interrupted(published: Path, number: signal.Signals, code: int) -> None:
    with socket.socket() as candidate:
        candidate.bind(("127.0.0.1", 0))
        port = candidate.getsockname()[1]
    command = [sys.executable, "-m", "pipeline", "serve", str(published), "--port", str(port)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout
            assert server.stdout.readline() == f"photos-1: http://127.0.0.1:{port}/  (Ctrl-C ends it)\n"
            recorded = golden(published)["test-01.png"]
            answer = ask(f"http://127.0.0.1:{port}/", (published / "golden" / "test-01.png").read_bytes())
            assert answer["label"] == recorded["label"]
            with socket.create_connection(("127.0.0.1", port)) as silent:
                silent.sendall(b"POST /predict")
                server.send_signal(number)
                out, said = server.communicate(timeout=60)
        finally:
            server.kill()
    assert (server.returncode, out, said) == (code, "", "interrupted\n")
