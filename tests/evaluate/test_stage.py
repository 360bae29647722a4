"""The whole stage on a network whose frozen part means something: every chapter, stored, logged and reported."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.config import build_config
from pipeline.export.predict import Predictor
from pipeline.models.network import build_network
from pipeline.plan import Request
from pipeline.run import RunResult, run_pipeline
from pipeline.tasks.table import load_task
from pipeline.tracking import MemoryTracker
from pipeline.trained import load_calibration
from pipeline.workdir import RunDir

IMAGES, TEST = 60, 9
Ran = tuple[RunResult, MemoryTracker]
MODEL = {"backbone": "convnet", "image_size": 12, "head": {"hidden": []}}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, make_photos: Callable[..., Path]) -> Path:
    """A folder of photographs and weights that stand for pretrained ones."""
    root = tmp_path_factory.mktemp("project")
    make_photos(root / "photos", count=20)
    config = build_config({"model": MODEL | {"weights": "none"}})
    network = build_network(config.model, load_task("classification"), 3, seed=5, weights=None)
    network.backbone.save_weights(root / "pretrained.weights.h5")
    return root


def run(root: Path, name: str, *settings: str, stages: tuple[str, ...] = ()) -> Ran:
    tracker = MemoryTracker()
    every = (
        "model.backbone=convnet", "model.image_size=12", "model.head.hidden=[]", "train.head.epochs=2",
        f"model.weights={root / 'pretrained.weights.h5'}", "augment.transforms=[]",
    )  # fmt: skip
    if stages:
        request = Request(name=name, settings=settings, stages=stages)
    else:
        request = Request(data=str(root / "photos"), name=name, settings=(*every, *settings))
    return run_pipeline(request, root, tracker=tracker), tracker


@pytest.fixture(scope="module")
def whole(project: Path) -> Ran:
    settings = ("train.fine_tune.epochs=1", "train.fine_tune.from=block1", "evaluate.robustness=true")
    return run(project, "whole", *settings)


CHAPTERS = {
    "Scores": ("per_class.png", "confusion_matrix.png"), "What next?": (), "Calibration": ("reliability.png",),
    "Errors": ("errors.png",), "Slices": (), "Robustness": ("robustness.png",), "Label noise": ("label_noise.png",),
    "Learning curve": ("learning_curve.png",),
}  # fmt: skip


def test_every_chapter_is_stored_logged_and_reported(whole: Ran) -> None:
    result, tracker = whole
    page = result.report.read_text(encoding="utf-8") if result.report else ""
    document = json.loads((result.path / "evaluation.json").read_text())
    logged = {path.name for path, _ in tracker.artifacts}
    assert list(CHAPTERS) == [title for title in CHAPTERS if f">{title}<" in page]
    for pictures in CHAPTERS.values():
        assert set(pictures) <= logged
        assert all((result.path / name).is_file() for name in pictures)
    assert {"report.html", "label_noise.csv", "evaluation.json", "predictions.parquet"} <= logged
    assert {"per_class", "robustness_scores", "doubtful_labels", "learning_curve"} <= set(tracker.tables)
    assert document["next"]["advice"]
    assert document["robustness"]["forward_passes"] == 26 * TEST
    assert document["errors"]["forward_passes"] == len(
        {name for of in document["errors"]["gallery"] for name in of["ids"]}
    )
    assert document["metrics"] == result.metrics
    for name, value in result.metrics.items():
        assert tracker.metrics[name] == [(None, value)]
    assert tracker.description == document["headline"]


def test_each_test_image_passes_once_and_then_never(project: Path, whole: Ran) -> None:
    result, tracker = whole
    assert tracker.metrics["evaluate/forward_passes"] == [(None, TEST)]
    again, tracker = run(project, "whole", stages=("evaluate",))
    assert tracker.metrics["evaluate/forward_passes"] == [(None, 0)]
    assert again.metrics == result.metrics


def test_predictions_are_calibrated_and_exported_alike(whole: Ran) -> None:
    result, _ = whole
    rows = pq.read_table(result.path / "predictions.parquet").to_pydict()
    assert result.export is not None
    answers = list(Predictor(result.export).predict([Path(path) for path in rows["path"]]))
    np.testing.assert_allclose([answer.probability for answer in answers], rows["probability"], atol=1e-4)
    threshold = load_calibration(RunDir(result.path)).threshold
    assert [answer.confident for answer in answers] == [one >= threshold for one in rows["probability"]]


def test_the_calibration_reaches_the_export(project: Path, tmp_path: Path) -> None:
    result, _ = run(project, "cold", "train.head.epochs=3")
    state = json.loads(RunDir(result.path).calibration.read_text())
    RunDir(result.path).calibration.write_text(json.dumps(state | {"temperature": 0.1, "threshold": 0.999}))
    run(project, "cold", stages=("evaluate", "export"))
    rows = pq.read_table(result.path / "predictions.parquet").to_pydict()
    answers = list(Predictor(result.path / "export").predict([Path(path) for path in rows["path"]]))
    sharp = np.array([answer.probability for answer in answers])
    np.testing.assert_allclose(sharp, rows["probability"], atol=1e-4)
    threshold = load_calibration(RunDir(result.path)).threshold
    assert [answer.confident for answer in answers] == [one >= threshold for one in rows["probability"]]
    assert sharp.mean() > 0.4


def test_labels_of_all_images_are_judged(whole: Ran) -> None:
    with (whole[0].path / "label_noise.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == IMAGES
    assert {row["split"] for row in rows} == {"train", "validation", "test"}


def test_random_weights_have_no_features_to_look_at(project: Path) -> None:
    result, tracker = run(project, "scratch", "model.weights=none")
    page = result.report.read_text(encoding="utf-8") if result.report else ""
    assert ">Label noise<" not in page
    assert ">Errors<" in page
    assert "doubtful_labels" not in tracker.tables
