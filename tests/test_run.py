"""Whole runs on tiny images, logged to memory."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from limits import file_size_limit
from PIL import Image

from pipeline.config import load_config
from pipeline.errors import ConfigError, DataError, ModelError, PipelineError, SpaceError, TrackingError
from pipeline.export.predict import Predictor
from pipeline.plan import Request, plan_run
from pipeline.progress import Silent
from pipeline.run import RunResult, run_pipeline
from pipeline.tracking import MemoryTracker
from pipeline.workdir import STAGES, RunDir

SMALL = (
    "model.backbone=convnet", "model.weights=none", "model.image_size=12", "model.head.hidden=[8]",
    "train.head.epochs=2", "train.fine_tune.epochs=2", "train.fine_tune.from=block1", "train.batch_size=8",
    "augment.transforms=[{shift: {pixels: 2}}]", "evaluate.explain=1",
)  # fmt: skip

Run = Callable[..., tuple[RunResult, MemoryTracker]]


@pytest.fixture
def run(tmp_path: Path, photo_folder: Path) -> Run:
    """Returns a function that runs stages of the small recipe in `tmp_path`."""

    def go(*stages: str, settings: tuple[str, ...] = SMALL, data: str | None = str(photo_folder), **options: object):  # type: ignore[no-untyped-def]
        tracker = MemoryTracker()
        request = Request(data=data, settings=settings, stages=stages, **options)  # type: ignore[arg-type]
        return run_pipeline(request, tmp_path, tracker=tracker), tracker

    return go


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, make_photos: Callable[..., Path]
) -> tuple[RunResult, MemoryTracker]:
    """One run of all stages."""
    root, tracker = tmp_path_factory.mktemp("project"), MemoryTracker()
    data = make_photos(root / "photos")
    (data / "red" / "broken.jpg").write_bytes(b"not an image")
    return run_pipeline(Request(data=str(data), settings=SMALL), root, tracker=tracker), tracker


def test_every_artefact_of_the_design_is_there(whole: tuple[RunResult, MemoryTracker]) -> None:
    found = {path.name for path in whole[0].path.iterdir() if not path.name.startswith(".")}
    assert found == {
        "augment.json", "augment.png", "calibration.json", "config.yaml", "confusion_matrix.png", "data.png",
        "duplicates.csv", "environment.txt", "errors.png", "evaluation.json", "explain", "export", "history.csv",
        "history.png", "ingest.json", "manifest.parquet", "model.json", "model.keras", "per_class.png",
        "predictions.parquet", "quarantine.csv", "reliability.png", "report.html", "run.json",
    }  # fmt: skip
    assert all(RunDir(whole[0].path).stage_state(stage) == "done" for stage in STAGES)


def test_the_evaluation_keeps_its_contract(whole: tuple[RunResult, MemoryTracker]) -> None:
    result, tracker = whole
    document = json.loads((result.path / "evaluation.json").read_text())
    assert document["labels"] == ["blue", "green", "red"]
    assert document["metrics"] == result.metrics
    for name in ("test/top_1", "test/top_1_low", "test/top_1_high", "test/macro_f1", "test/majority_baseline"):
        assert 0 <= document["metrics"][name] <= 1
        assert tracker.metrics[name] == [(None, document["metrics"][name])]
    table = pq.read_table(result.path / "predictions.parquet")
    assert table.column_names == [
        "id", "path", "label", "predicted", "probability", "p:blue", "p:green", "p:red",
    ]  # fmt: skip
    hits = sum(a == b for a, b in zip(table["label"].to_pylist(), table["predicted"].to_pylist(), strict=True))
    assert hits / len(table) == document["metrics"]["test/top_1"]


def test_the_export_gives_the_answers_that_were_evaluated(whole: tuple[RunResult, MemoryTracker]) -> None:
    result, _ = whole
    table = pq.read_table(result.path / "predictions.parquet").to_pylist()
    assert result.export is not None
    answers = list(Predictor(result.export).predict([Path(row["path"]) for row in table]))
    assert len(answers) == 3  # one of the eight images of each class
    for row, answer in zip(table, answers, strict=True):
        wanted = {label: row[f"p:{label}"] for label in ("blue", "green", "red")}
        assert answer.probabilities == pytest.approx(wanted, abs=1e-4)


def test_what_the_tracker_is_told(whole: tuple[RunResult, MemoryTracker]) -> None:
    result, tracker = whole
    history = list(csv.DictReader((result.path / "history.csv").read_text().splitlines()))
    assert [step for step, _ in tracker.metrics["train/loss"]] == [1, 2, 3, 4]
    assert [value for _, value in tracker.metrics["validation/top_1"]] == [
        float(row["validation/top_1"]) for row in history
    ]
    assert tracker.params["train.head.epochs"] == "2"
    assert tracker.params["train.fine_tune.from"] == "block1"
    assert tracker.params["ingest.split.seed"] == "0"
    assert tracker.params["numeric.batch_size"] == "64"  # of the small CNN
    assert {"numeric.onednn", "numeric.tensorflow"} <= set(tracker.params)
    assert (tracker.status, tracker.experiment) == ("FINISHED", "photos")
    assert tracker.description == result.headline
    (dataset,) = tracker.datasets.values()
    assert dataset["digest"] == json.loads((result.path / "ingest.json").read_text())["digest"]
    logged = {path.name for path, _ in tracker.artifacts}
    assert {"config.yaml", "augment.png", "confusion_matrix.png", "history.png", "export", "model.json"} <= logged
    assert (result.path / "explain", None) in tracker.artifacts
    assert tracker.tags["fine_tune_from_epoch"] == "3"
    assert len(tracker.models) == 1


def test_a_broken_file_is_listed_and_the_rest_trained(whole: tuple[RunResult, MemoryTracker]) -> None:
    (row,) = csv.DictReader((whole[0].path / "quarantine.csv").read_text().splitlines())
    assert Path(row["path"]).name == "broken.jpg"
    assert "no image" in row["reason"]


def test_the_stored_recipe_is_the_resolved_one(whole: tuple[RunResult, MemoryTracker]) -> None:
    config = load_config(whole[0].path / "config.yaml")
    assert config.train.head.epochs == 2
    assert config.ingest.data is not None


def test_stages_can_come_in_several_calls(run: Run) -> None:
    first, begun = run("ingest", "augment", "build")
    assert first.headline is None
    second, ended = run("train", "evaluate", "export", settings=(), data=None)
    assert second.path == first.path
    assert (begun.run_id, begun.status) == (ended.run_id, "FINISHED")
    assert second.headline
    assert second.export == first.path / "export"


def test_a_second_run_of_one_seed_is_equal(run: Run) -> None:
    first, second = run()[0], run()[0]
    assert first.path != second.path
    assert first.metrics == second.metrics
    read = [pq.read_table(result.path / "predictions.parquet") for result in (first, second)]
    assert read[0].equals(read[1])


def test_what_fails_is_marked_and_can_be_resumed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "save", _broken_disk)
        tracker = MemoryTracker()
        request = Request(data=str(tmp_path / "photos"), settings=SMALL)
        with pytest.raises(OSError, match="Input/output error"):
            run_pipeline(request, tmp_path, tracker=tracker)
    assert (tracker.status, tracker.reason) == ("FAILED", "in stage train: Input/output error")
    broken = RunDir(tmp_path / "runs" / "photos-1")
    assert [broken.stage_state(stage) for stage in STAGES] == ["done", "done", "done", "failed", None, None]
    assert not broken.model.exists()
    untouched = (broken.manifest).stat().st_mtime_ns
    result, _ = run(settings=(), data=None, resume=True)
    assert result.path == broken.path
    assert result.export is not None
    assert broken.manifest.stat().st_mtime_ns == untouched  # ingest was done and is not repeated


def _broken_disk(*_: object, **__: object) -> None:
    raise OSError("Input/output error")


def test_an_interrupted_run_is_killed_not_failed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.evaluate.stage.frozen_cut", interrupt)
    tracker = MemoryTracker()
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(Request(data=str(tmp_path / "photos"), settings=SMALL), tmp_path, tracker=tracker)
    assert tracker.status == "KILLED"
    assert RunDir(tmp_path / "runs" / "photos-1").stage_state("evaluate") == "killed"


def test_an_interrupt_that_arrives_as_another_error_is_one_all_the_same(
    tmp_path: Path, photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Silent):
        def check(self) -> None:
            raise KeyboardInterrupt

    def wrapped(*_: object, **__: object) -> None:
        raise RuntimeError("UNKNOWN: KeyboardInterrupt")

    monkeypatch.setattr("pipeline.conductor.ingest", wrapped)
    tracker, request = MemoryTracker(), Request(data=str(photo_folder), settings=SMALL)
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(request, tmp_path, tracker=tracker, progress=Interrupted())
    assert tracker.status == "KILLED"
    assert RunDir(tmp_path / "runs" / "photos-1").stage_state("ingest") == "killed"


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        (("model.backbone=inceptionv3",), ModelError, "did you mean 'inception_v3'?"),
        (("task=clasification",), PipelineError, "did you mean 'classification'?"),
        (("model.image_size=8", "model.backbone=efficientnet_lite0"), ModelError, "needs images of at least"),
        (("augment.transforms=[rotat]",), PipelineError, "did you mean 'rotate'?"),
        (("augment.transforms=[{rotate: {degree: 3}}]",), PipelineError, "did you mean 'degrees'?"),
        (("model.weights=absent.h5",), ModelError, "absent.h5"),
        (("train.head.learning_rate=-1",), PipelineError, "train.head.learning_rate"),
    ],
)
def test_preflight_refuses_before_anything_is_written(
    run: Run, tmp_path: Path, settings: tuple[str, ...], error: type[PipelineError], says: str
) -> None:
    with pytest.raises(error) as caught:
        run(settings=(*SMALL, *settings))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("missing", ["absent", "empty", "one", "small"])
def test_folders_that_cannot_be_trained_on(
    run: Run, tmp_path: Path, make_photos: Callable[..., Path], missing: str
) -> None:
    folder = tmp_path / missing
    if missing == "empty":
        folder.mkdir()
    elif missing == "one":
        make_photos(folder, classes=["only"])
    elif missing == "small":
        make_photos(folder, classes=["a", "b"], count=2)
    says = {"absent": "no folder", "empty": "no sub-folders", "one": "one class only", "small": "'a' has 2, 'b' has 2"}
    with pytest.raises(DataError, match=says[missing]):
        run(data=str(folder))
    assert not (tmp_path / "runs").exists()


def test_a_tracking_store_that_cannot_be_opened_leaves_no_run(tmp_path: Path, photo_folder: Path) -> None:
    class Closed(MemoryTracker):
        def start(self, **_: object) -> str | None:
            raise TrackingError("no server at http://localhost:1")

    with pytest.raises(TrackingError):
        run_pipeline(Request(data=str(photo_folder), settings=SMALL), tmp_path, tracker=Closed())
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_recipe_that_does_not_fit_the_disk_leaves_no_run(tmp_path: Path, photo_folder: Path) -> None:
    tracker, request = MemoryTracker(), Request(data=str(photo_folder), settings=SMALL)
    with file_size_limit(1000), pytest.raises(SpaceError, match=r"config\.yaml: it takes 1\."):
        run_pipeline(request, tmp_path, tracker=tracker)
    assert list((tmp_path / "runs").iterdir()) == []
    assert tracker.status is None


def test_a_place_that_cannot_be_written_is_refused_before_anything_is(tmp_path: Path, photo_folder: Path) -> None:
    (tmp_path / ".cache").touch()
    request = Request(data=str(photo_folder), settings=SMALL)
    with pytest.raises(PipelineError, match=r"cannot be written: .*a folder is wanted") as error:
        run_pipeline(request, tmp_path, tracker=MemoryTracker())
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_a_cut_that_does_not_exist_fails_before_training(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="did you mean 'block1'"):
        run(settings=(*SMALL, "train.fine_tune.from=blokc1"))
    states = [RunDir(tmp_path / "runs" / "photos-1").stage_state(stage) for stage in STAGES]
    assert states == ["done", "done", "failed", None, None, None]


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_is_for_training_only(run: Run, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    import keras

    trained, fit = [], keras.Model.fit

    def watched(model: keras.Model, *args: object, **kwargs: object) -> object:
        layers = {layer.name: layer.compute_dtype for layer in model._flatten_layers()}
        trained.append((layers["dense_1"], type(model.optimizer).__name__))
        return fit(model, *args, **kwargs)

    monkeypatch.setattr(keras.Model, "fit", watched)
    result, _ = run(settings=(*SMALL, f"model.precision={precision}"))
    kind = "LossScaleOptimizer" if precision == "mixed_float16" else "LayerwiseAdam"
    assert trained == [(precision.removeprefix("mixed_"), kind)] * 2
    model = keras.models.load_model(result.path / "model.keras", compile=False)
    assert {layer.compute_dtype for layer in model._flatten_layers()} == {"float32"}
    assert result.export is not None


SEARCH = (*SMALL, "train.search=true", "train.fine_tune.epochs=0", "train.head.epochs=1", "model.head.dropout=0.25")


def try_dropout(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    """Has the recipe's own setting tried and then one other dropout, which is chosen."""
    values = {"learning_rate": (), "weight_decay": (), "dropout": (value,), "label_smoothing": ()}
    monkeypatch.setattr("pipeline.train.search.VALUES", values)
    monkeypatch.setattr("pipeline.train.search._best", lambda trials: trials[-1])


@pytest.mark.parametrize(("precision", "dropout"), [("float32", 0.0), ("mixed_bfloat16", 0.5)])
def test_a_search_is_kept_told_and_saved(
    run: Run, monkeypatch: pytest.MonkeyPatch, precision: str, dropout: float
) -> None:
    import keras

    try_dropout(monkeypatch, dropout)
    result, tracker = run("ingest", "build", "train", settings=(*SEARCH, f"model.precision={precision}"))
    assert list(tracker.trials) == [f"{result.run} trial 1", f"{result.run} trial 2"]
    first, second = tracker.trials.values()
    assert (first["params"]["dropout"], second["params"]["dropout"]) == ("0.25", str(dropout))
    assert {"validation/kept_loss", "validation/kept_top_1", "train/epochs", "train/seconds"} == set(first["metrics"])
    assert [set(row) for row in second["history"]] == [
        {"train/loss", "train/top_1", "validation/loss", "validation/top_1", "train/learning_rate"}
    ]
    assert [value for _, value in tracker.metrics["train/chosen/dropout"]] == [dropout]
    assert [step for step, _ in tracker.metrics["train/loss"]] == [1]
    assert tracker.params["train.search"] == "true"

    rows = list(csv.DictReader((result.path / "search.csv").read_text().splitlines()))
    assert [(row["trial"], row["dropout"], row["chosen"]) for row in rows] == [
        ("1", "0.25", "False"), ("2", str(dropout), "True"),
    ]  # fmt: skip
    assert tracker.tables["search"]["dropout"] == [0.25, dropout]
    assert "search.csv" in {path.name for path, _ in tracker.artifacts}
    model = keras.models.load_model(result.path / "model.keras", compile=False)
    assert [layer.rate for layer in model._flatten_layers() if layer.name == "dropout"] == [dropout]


def test_a_dry_run_says_what_is_searched(tmp_path: Path) -> None:
    for setting, words in (
        ("train.search=true", "(bank; searched: learning_rate, weight_decay, dropout, label_smoothing)"),
        ("train.head.learning_rate=auto", "(bank; searched: learning_rate)"),
        ("seed=0", "(bank)"),
    ):
        plan = plan_run(Request(data="photos", settings=(setting,)), tmp_path / "runs")
        assert any(words in line for line in plan.lines())


def test_the_recipe_chooses_the_strategy(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    made, mirrored = [], tf.distribute.MirroredStrategy
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda: made.append(mirrored()) or made[0])
    run("ingest", "build", "train", settings=(*SMALL, "train.strategy=mirrored"))
    assert len(made) == 1


def test_a_name_that_is_not_utf8_is_quarantined(run: Run, photo_folder: Path) -> None:
    bad = os.fsencode(photo_folder / "red") + b"/caf\xe9.jpg"
    shutil.copy(photo_folder / "red" / "0.jpg", bad)
    result, _ = run("ingest")
    (row,) = csv.DictReader((result.path / "quarantine.csv").read_text().splitlines())
    assert "not UTF-8" in row["reason"]


def test_what_train_was_told_of_augmentation_stays(run: Run) -> None:
    begun, tracker = run("ingest", "build", "train", settings=(*SMALL, "augment.views=2"))
    assert tracker.params["augment.views"] == "2"
    with pytest.raises(ConfigError, match="augment: stage train has run"):
        run("augment", settings=("augment.views=3",), data=None, name=begun.run)


def test_a_dead_tracker_does_not_hide_the_error(tmp_path: Path, photo_folder: Path) -> None:
    class Dead(MemoryTracker):
        def finish(self, *_: object) -> None:
            raise TrackingError("no server")

    settings = (*SMALL, "train.fine_tune.from=nonsense")
    with pytest.raises(ModelError, match="nonsense"):
        run_pipeline(Request(data=str(photo_folder), settings=settings), tmp_path, tracker=Dead())


def test_a_run_in_use_is_left_alone(run: Run) -> None:
    begun, _ = run("ingest")
    with RunDir(begun.path).exclusive(), pytest.raises(ConfigError, match="in use by another process"):
        run("augment", settings=(), data=None, name=begun.run)


def test_training_that_diverges_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.tasks.classification import Classification

    monkeypatch.setattr(
        Classification, "loss", lambda self, smoothing: lambda truth, logits: logits[:, 0] * float("nan")
    )
    with pytest.raises(ModelError, match=r"training diverged: .* in head; lower train\.head\.learning_rate"):
        run()


def test_splits_of_ones_own_are_kept(run: Run, tmp_path: Path, make_photos: Callable[..., Path]) -> None:
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        make_photos(tmp_path / "split" / split, count=count)
        for place, path in enumerate(sorted((tmp_path / "split" / split).rglob("*.*"))):
            Image.linear_gradient("L").resize((12, 12)).point(
                lambda v, add=(place, count): v // 4 + 9 * add[0] + add[1]
            ).save(path)
    result, _ = run("ingest", data=str(tmp_path / "split"))
    counts = json.loads((result.path / "ingest.json").read_text())["counts"]
    assert {split: sum(found.values()) for split, found in counts.items()} == {"train": 18, "validation": 6, "test": 9}
