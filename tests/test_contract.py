"""What every task and every augmentation must do, whatever it is: a new row of a table is tested by being there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from pipeline.augment.table import AUGMENTATIONS
from pipeline.config import build_config
from pipeline.export.predict import Predictor
from pipeline.plan import Request
from pipeline.run import run_pipeline
from pipeline.tasks.table import TASKS, load_task
from pipeline.tracking import MemoryTracker


@pytest.mark.parametrize("name", TASKS)
def test_a_task_goes_through_every_stage(name: str, tmp_path: Path, photo_folder: Path) -> None:
    settings = (
        f"task={name}", "model.backbone=convnet", "model.weights=none", "model.image_size=12",
        "model.head.hidden=[8]", "train.head.epochs=2", "train.fine_tune.epochs=1", "train.fine_tune.from=block1",
    )  # fmt: skip
    tracker = MemoryTracker()
    result = run_pipeline(Request(data=str(photo_folder), settings=settings), tmp_path, tracker=tracker)
    assert tracker.status == "FINISHED"
    assert result.headline
    assert all(metric.startswith("test/") and np.isfinite(value) for metric, value in result.metrics.items())
    assert result.pictures
    assert result.export is not None
    assert Predictor(result.export).labels == ("blue", "green", "red")


@pytest.mark.parametrize("name", TASKS)
def test_a_tasks_parts_fit_together(name: str) -> None:
    task, labels = load_task(name), ["a", "b", "b", "c"]
    assert task.name == name
    targets = task.encode_targets(labels, ["a", "b", "c"])
    weights = task.target_weights(targets, "balanced")
    assert (len(targets), targets.dtype, weights.shape) == (4, np.float32, (3,))
    logits = np.random.default_rng(0).normal(size=targets.shape).astype("float32")
    assert float(task.loss(0.1)(targets, logits)) > float(task.loss(0.0)(targets, 20 * targets))
    probabilities = task.probabilities(logits)
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1)
    served = task.serving_outputs(keras.ops.convert_to_tensor(logits), ["a", "b", "c"])
    np.testing.assert_allclose(served["probabilities"], probabilities, atol=1e-6)
    scores = task.class_scores(keras.ops.convert_to_tensor(logits))
    assert scores is None or scores.shape == (4, 3)
    for metric in task.training_metrics():
        metric.update_state(targets, targets)
        assert float(metric.result()) == 1.0


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_says_what_it_is_valid_for(name: str) -> None:
    assert AUGMENTATIONS[name].tasks
    assert build_config({"augment": {"transforms": [name]}}).augment.transforms == (name,)


def test_what_is_not_valid_for_a_task_is_left_out_and_said(
    tmp_path: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.progress import Silent

    said: list[str] = []

    class Listener(Silent):
        def say(self, line: str) -> None:
            said.append(line)

    monkeypatch.setattr(AUGMENTATIONS["blur"], "tasks", frozenset({"segmentation"}))
    settings = ("model.backbone=convnet", "model.weights=none", "augment.transforms=[blur, noise]")
    request = Request(data=str(photo_folder), settings=settings, stages=("ingest", "augment"))
    result = run_pipeline(request, tmp_path, progress=Listener(), tracker=MemoryTracker())
    assert "augmentations not valid for classification are left out: blur" in said
    resolved = (result.path / "augment.json").read_text()
    assert "noise" in resolved
    assert "blur" not in resolved


def test_the_python_names_are_what_they_say() -> None:
    import pipeline

    assert sorted(pipeline.__all__) == pipeline.__all__
    for name in pipeline.__all__:
        assert getattr(pipeline, name).__name__ == name
    unused: Callable[..., object] = getattr
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        unused(pipeline, "nonsense")
