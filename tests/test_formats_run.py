"""Formats inside a run: asked for in the recipe, refused early where a package is missing, printed and logged."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError
from pipeline.export.formats import measure
from pipeline.export.formats.table import FORMATS, check_installed
from pipeline.ingest.manifest import load_manifest
from pipeline.plan import Request
from pipeline.progress import Silent
from pipeline.run import run_pipeline
from pipeline.tracking import MemoryTracker
from pipeline.train.dataset import InputSpec

SMALL = (
    "model.backbone=convnet", "model.weights=none", "model.image_size=12", "model.head.hidden=[8]",
    "train.head.epochs=2",
)  # fmt: skip
STAGES = ("ingest", "build", "train", "export")


class Listening(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def test_a_run_prints_and_logs_what_its_formats_are_worth(
    tmp_path: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_SECONDS", 0.01)
    shown: list[np.ndarray] = []
    convert = "pipeline.export.formats.litert.to_int8"

    def watched(source: object, path: Path) -> None:
        shown.append(source.calibration())  # type: ignore[attr-defined]
        path.write_bytes(b"no model")

    monkeypatch.setattr(convert, watched)
    tracker, said = MemoryTracker(), Listening()
    settings = (*SMALL, "export.formats=[onnx, litert]")
    request = Request(data=str(photo_folder), settings=settings, stages=STAGES)
    result = run_pipeline(request, tmp_path, tracker=tracker, progress=said)
    assert result.export is not None
    rows = {row["name"]: row for row in json.loads((result.export / "formats.json").read_text())["formats"]}
    assert [row["published"] for row in rows.values()] == [True, True, True, True, False]
    lines = [line for line in said.lines if line.split()[0] in rows]
    assert len(lines) == len(FORMATS)
    assert "litert_int8     not published: cannot be asked: " in lines[-1]
    assert tracker.tables["formats"]["name"] == list(rows)
    assert tracker.tables["formats"]["top_1"] == [row["top_1"] for row in rows.values()]
    assert tracker.metrics["export/onnx/top_1_change"] == [(None, rows["onnx"]["top_1_change"])]
    assert tracker.metrics["export/litert_float16/bytes"] == [(None, rows["litert_float16"]["bytes"])]
    assert "export/litert_int8/top_1" not in tracker.metrics
    # int8's ranges are those of training images, each as it is; none of another split.
    manifest, spec = load_manifest(result.path / "manifest.parquet"), InputSpec((12, 12), 1)
    pixels = {
        split: [spec.decode(Path(path).read_bytes()).numpy().tobytes() for path in manifest.split(split).column("path")]
        for split in ("train", "validation", "test")
    }
    (images,) = shown
    assert sorted(image.tobytes() for image in images) == sorted(pixels["train"])
    assert not {image.tobytes() for image in images} & {*pixels["validation"], *pixels["test"]}


@pytest.mark.parametrize(("extra", "package"), [("onnx", "tf2onnx"), ("litert", "ai_edge_litert")])
def test_a_missing_package_is_found_before_anything_is_written(
    extra: str, package: str, tmp_path: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    settings = (*SMALL, f"export.formats=[{extra}]")
    with pytest.raises(ConfigError) as caught:
        run_pipeline(Request(data=str(photo_folder), settings=settings), tmp_path, tracker=MemoryTracker())
    assert str(caught.value) == (
        f"export.formats: {extra} needs {package}, not installed here; "
        f"pip install 'transfer-pipeline[{extra}]', or leave {extra} out"
    )
    assert not (tmp_path / "runs").exists()
    # Who does not export needs it for nothing.
    request = Request(data=str(photo_folder), settings=settings, stages=("ingest",))
    run_pipeline(request, tmp_path, tracker=MemoryTracker())


def test_what_is_installed_is_not_refused() -> None:
    check_installed(("saved_model", "onnx", "litert"))
