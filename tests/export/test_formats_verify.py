"""`pipeline verify` asks the other formats too: what it finds wrong with them, and what it could not ask."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from subjects import ORIGIN, SIDE, build_test_split, original

from pipeline.cli import cli
from pipeline.export.formats import measure
from pipeline.export.formats.source import prepare
from pipeline.export.formats.stage import Wanted
from pipeline.export.formats.table import FORMATS
from pipeline.export.stage import publish, write_sums
from pipeline.export.verify import verify

ONNX, FLOAT32 = "onnx/model.onnx", "litert/float32.tflite"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export with ONNX and LiteRT; int8 is missing, since there are no training images."""
    root = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "_SECONDS", 0.01)
        wanted = Wanted(("onnx", "litert"))
        publish(original(), ORIGIN, build_test_split(root / "test"), None, 4, root / "export", wanted)
    return root / "export"


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "export"))


def call(*words: object) -> Result:
    return CliRunner().invoke(cli, ["verify", *map(str, words)], catch_exceptions=False)


def test_every_published_format_is_asked(exported: Path) -> None:
    result = call(exported)
    assert result.exit_code == 0
    first, *others = result.stdout.splitlines()
    assert first.startswith("18 answers are off by at most ")
    assert [line.partition(" are off by at most ")[0] for line in others] == [
        f"{name}: 14 answers"
        for name in ("onnx", "litert_float32", "litert_float16")  # all but the bad images
    ]
    report = json.loads(call(exported, "--json").stdout)
    assert report["ok"]
    assert [row["asked"] for row in report["formats"]] == [True] * 3
    assert max(row["largest_difference"] for row in report["formats"][:2]) < 1e-5


def test_a_runtime_that_is_missing_is_said_and_is_no_failure(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    result = call(exported)
    assert result.exit_code == 0
    assert "onnx was not asked: onnxruntime is not installed; pip install 'transfer-pipeline[onnx]'\n" in result.stdout
    assert "litert_float32: 14 answers" in result.stdout


def other_network(path: Path) -> None:
    other = original(seed=1)
    row = next(row for row in FORMATS if path.as_posix().endswith(row.file))
    with prepare(other, {}, lambda: np.zeros((1, SIDE, SIDE, 3), np.float32)) as source:
        row.write(source, path)


def permuted_labels(path: Path) -> None:
    """The classes in another order: what has one number a class is turned around."""
    model = onnx.load(path)
    turned = 0
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.shape[-1:] == (4,) and values.ndim in (1, 2) and values.dtype == np.float32:
            tensor.CopyFrom(onnx.numpy_helper.from_array(values[..., ::-1].copy(), tensor.name))
            turned += 1
    assert turned
    onnx.save(model, path)


def rounded(path: Path) -> None:
    shutil.copyfile(path.with_name("float16.tflite"), path)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


MUTATIONS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "another network as ONNX": (ONNX, other_network, "a probability of a golden image is off by"),
    "labels of ONNX permuted": (ONNX, permuted_labels, "a probability of a golden image is off by"),
    "half of ONNX": (ONNX, truncated, "cannot be asked"),
    "another network as LiteRT": (FLOAT32, other_network, "a probability of a golden image is off by"),
    "float16 in the place of float32": (FLOAT32, rounded, "a probability of a golden image is off by"),
    "no LiteRT": (FLOAT32, Path.unlink, "cannot be asked"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_is_found_by_its_answers(name: str, copied: Path) -> None:
    file, change, problem = MUTATIONS[name]
    change(copied / file)
    write_sums(copied)  # whoever changes a file can make its digest anew
    assert verify(copied)["ok"]
    result = call(copied)
    assert result.exit_code == 3
    assert result.stdout.splitlines()[0].startswith(f"{file}: {problem}")
    report = json.loads(call(copied, "--json").stdout)
    assert (report["ok"], [found["file"] for found in report["problems"]]) == (False, [file])


@pytest.mark.parametrize("file", [ONNX, FLOAT32, "formats.json"])
def test_a_flipped_byte_is_found_by_tensorflow_alone(file: str, copied: Path) -> None:
    content = bytearray((copied / file).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / file).write_bytes(bytes(content))
    assert verify(copied)["problems"] == [{"file": file, "problem": "is not what was exported: its SHA-256 is another"}]
    result = call(copied)
    assert result.exit_code == 3
    assert "14 answers" not in result.stdout  # what is damaged is not loaded


def test_a_format_of_a_later_version_is_not_asked(copied: Path) -> None:
    document: dict[str, Any] = json.loads((copied / "formats.json").read_text())
    document["formats"][1]["name"] = "executorch"
    (copied / "formats.json").write_text(json.dumps(document))
    write_sums(copied)
    result = call(copied)
    assert (result.exit_code, "executorch was not asked: this version does not know it" in result.stdout) == (0, True)


def test_an_export_of_an_earlier_version_has_no_formats(copied: Path) -> None:
    (copied / "formats.json").unlink()
    write_sums(copied)
    assert json.loads(call(copied, "--json").stdout)["formats"] == []
