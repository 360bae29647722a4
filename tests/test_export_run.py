"""The stage export inside a run: proven by a clean process, with or without an evaluation before it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError, ExportError
from pipeline.export.predict import Predictor
from pipeline.export.verify import verify
from pipeline.plan import Request
from pipeline.progress import Silent
from pipeline.run import RunResult, run_pipeline
from pipeline.tracking import MemoryTracker, NullTracker, Tracker
from pipeline.workdir import RunDir

SMALL = (
    "model.backbone=convnet", "model.weights=none", "model.image_size=12", "model.head.hidden=[8]",
    "train.head.epochs=2", "evaluate.explain=0",
)  # fmt: skip


class Listening(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture
def trained(tmp_path: Path, photo_folder: Path) -> RunResult:
    """A run that has come as far as the stage train."""
    request = Request(data=str(photo_folder), settings=SMALL, stages=("ingest", "build", "train"))
    return run_pipeline(request, tmp_path, tracker=MemoryTracker())


@pytest.mark.usefixtures("clean_process")
def test_a_whole_run_ends_in_a_verified_export(tmp_path: Path, make_photos: Callable[..., Path]) -> None:
    tracker = MemoryTracker()
    data = make_photos(tmp_path / "photos", count=20)
    result = run_pipeline(Request(data=str(data), settings=SMALL), tmp_path, tracker=tracker)
    assert result.export is not None
    report = verify(result.export)
    assert (report["ok"], report["images"]) == (True, 9 + 10 + 4)  # three test images a class, probes, bad ones
    assert tracker.metrics["export/largest_difference"][0][1] < 1e-5
    golden = json.loads((result.export / "golden" / "golden.json").read_text())
    contract = json.loads((result.export / "contract.json").read_text())
    table = {row["id"]: row for row in pq.read_table(result.path / "predictions.parquet").to_pylist()}
    images = [answer for answer in golden["answers"] if "id" in answer]
    assert {image["id"] for image in images} == set(table)
    for image in images:
        row = table[image["id"]]
        assert image["probabilities"] == [row[f"p:{label}"] for label in golden["labels"]]
        assert (image["label"], image["confident"]) == (row["predicted"], row["probability"] >= contract["threshold"])
    assert (contract["run"], contract["backbone"]) == (result.run, "convnet")
    assert contract["dataset"] == json.loads((result.path / "ingest.json").read_text())["digest"]
    assert Predictor(result.export).labels == ("blue", "green", "red")
    card = (result.export / "card.md").read_text()
    assert f"# Model card: {result.run}\n\n**{result.headline}**" in card
    assert f"| test/top_1 | {result.metrics['test/top_1']:.3f} | {result.metrics['test/top_1_low']:.3f} to " in card
    assert "60 images in 3 classes from photos;" in card
    assert str(tmp_path) not in card


def test_without_an_evaluation_the_export_proves_itself_too(trained: RunResult, tmp_path: Path) -> None:
    settings = ("export.golden=2",)
    result = run_pipeline(
        Request(name=trained.run, settings=settings, stages=("export",)), tmp_path, tracker=MemoryTracker()
    )
    assert result.export is not None
    golden = json.loads((result.export / "golden" / "golden.json").read_text())
    assert golden["answers_from"]["test images"] == "the Keras model at export; no stage evaluate"
    assert sum("id" in answer for answer in golden["answers"]) == 2
    assert "**Not evaluated: " in (result.export / "card.md").read_text()
    assert verify(result.export)["ok"]


def test_private_or_missing_test_images_do_not_leave_the_project(
    trained: RunResult, photo_folder: Path, tmp_path: Path
) -> None:
    for path in photo_folder.rglob("*.*"):
        path.rename(path.with_suffix(path.suffix + ".away"))
    said, tracker = Listening(), MemoryTracker()
    request = Request(name=trained.run, stages=("export",))
    result = run_pipeline(request, tmp_path, tracker=tracker, progress=said)
    assert result.export is not None
    assert verify(result.export)["ok"]
    assert "3 of the golden test images are left out: too large, gone, or not as at ingest" in said.lines
    assert len(tracker.models) == 1  # its example is a probe


def test_a_verified_export_is_registered_and_no_other_one(
    trained: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, said, tracker = ("export.golden=2", "export.register=flowers"), Listening(), MemoryTracker()
    request = Request(name=trained.run, settings=settings, stages=("export",))
    run_pipeline(request, tmp_path, tracker=tracker, progress=said)
    (version,) = tracker.versions["flowers"]
    assert version["model_id"] in tracker.models
    digest = json.loads((trained.path / "ingest.json").read_text())["digest"]
    assert version["tags"] == {"run": trained.run, "dataset": digest[:12]}  # no score: not evaluated
    assert "registered: version 1 of flowers, its candidate now" in said.lines
    monkeypatch.setattr("pipeline.export.verify.TOLERANCE", -1.0)
    with pytest.raises(ExportError, match="does not answer as the trained network did"):
        run_pipeline(Request(name=trained.run, stages=("export",)), tmp_path, tracker=tracker)
    assert len(tracker.versions["flowers"]) == 1


def test_to_register_without_a_model_or_a_tracker_is_refused_at_once(tmp_path: Path, photo_folder: Path) -> None:
    def refusal(*settings: str, tracker: Tracker) -> str:
        request = Request(data=str(photo_folder), settings=(*SMALL, "export.register=flowers", *settings))
        with pytest.raises(ConfigError) as caught:
            run_pipeline(request, tmp_path, tracker=tracker)
        assert not (tmp_path / "runs").exists()
        return str(caught.value)

    assert refusal("export.logged_model=false", tracker=MemoryTracker()) == (
        "export: register is 'flowers' and logged_model false, so there is nothing to register; "
        "set logged_model=true or register=null"
    )
    assert refusal(tracker=NullTracker()).startswith("export.register is 'flowers', but nothing is tracked; set ")


def test_an_export_that_is_not_confirmed_fails_the_run_and_leaves_the_earlier(
    trained: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export() -> RunResult:
        request = Request(name=trained.run, stages=("export",))
        return run_pipeline(request, tmp_path, tracker=MemoryTracker())

    earlier = (export().path / "export" / "saved_model.pb").read_bytes()
    monkeypatch.setattr("pipeline.export.verify.TOLERANCE", -1.0)
    with pytest.raises(ExportError, match="does not answer as the trained network did"):
        export()
    assert (trained.path / "export" / "saved_model.pb").read_bytes() == earlier
    assert RunDir(trained.path).stage_state("export") == "failed"
