"""The three trackers through one contract, then what only an MLflow store can show."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import pipeline
from pipeline.errors import ConfigError, TrackingError
from pipeline.plan import Request
from pipeline.run import run_pipeline
from pipeline.tracking import MemoryTracker, MlflowTracker, NullTracker, Tracker

LABELS = ["cat", "dog", "owl"]
HISTORY = [{"train/loss": 2.0, "validation/loss": 1.5}, {"train/loss": 1.0, "validation/loss": 1.25}]
METHODS = [name for name, member in vars(Tracker).items() if inspect.isfunction(member) and not name.startswith("_")]

TrackerFactory = Callable[[Path], Tracker]
BACK_ENDS = [
    pytest.param(lambda root: NullTracker(), id="null"),
    pytest.param(lambda root: MemoryTracker(), id="memory"),
    pytest.param(MlflowTracker, id="mlflow"),
]


@pytest.fixture
def export_dir(tmp_path: Path) -> Path:
    """Returns a folder that stands for a SavedModel where nothing loads it."""
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "labels.txt").write_text("\n".join(LABELS))
    return folder


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a SavedModel with the export's signature, whose answer follows from the number of bytes."""
    import tensorflow as tf

    class ByteCounter(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
        def serve(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            class_id = tf.strings.length(image_bytes) % len(LABELS)
            return {
                "label": tf.gather(tf.constant(LABELS), class_id),
                "class_id": tf.cast(class_id, tf.int64),
                "probabilities": tf.nn.softmax(2.0 * tf.one_hot(class_id, len(LABELS))),
                "confident": class_id > 0,
                "error": tf.where(class_id > 0, "", "short"),
            }

    path = tmp_path_factory.mktemp("saved") / "export"
    model = ByteCounter()
    tf.saved_model.save(model, str(path), signatures={"serving_default": model.serve})
    return path


def started(tracker: Tracker, **arguments: Any) -> str:
    run_id = tracker.start(experiment="stamps", run_name="stamps-1", **arguments)
    assert run_id is not None
    return run_id


# One contract for all back ends.


@pytest.mark.parametrize("factory", BACK_ENDS)
@pytest.mark.parametrize("method", METHODS)
def test_back_ends_have_the_signatures_of_the_port(factory: TrackerFactory, method: str, tmp_path: Path) -> None:
    port = inspect.signature(getattr(Tracker, method))
    assert inspect.signature(getattr(type(factory(tmp_path)), method)) == port


@pytest.mark.parametrize("factory", BACK_ENDS)
def test_back_ends_take_a_whole_run(factory: TrackerFactory, root: Path, export_dir: Path) -> None:
    tracker = factory(root)
    run_id = tracker.start(experiment="stamps", run_name="stamps-1", tags={"stage": "ingest"})
    tracker.log_params({"seed": 0, "train": {"head": {"epochs": 3}}})
    tracker.log_metrics({"train/loss": 1.5, "validation/top_1": math.nan}, step=1)
    tracker.log_metrics({"test/top_1": 0.5})
    tracker.log_artifact(export_dir / "labels.txt")
    tracker.log_artifact(export_dir, "evaluation")
    tracker.log_table("per_class", {"class": LABELS, "f1": [0.5, math.nan, 1.0]})
    tracker.log_trial("stamps-1 trial 1", {"learning_rate": 0.1}, {"validation/kept_loss": math.nan}, HISTORY)
    tracker.log_dataset(name="stamps", digest="ab" * 32, source="data/stamps", counts={"train": 3, "test": 1})
    model_id = tracker.log_model(export_dir, labels=LABELS, example=b"image")
    if model_id is None:
        with pytest.raises(
            ConfigError, match=r"export.register is 'stamps', but nothing is tracked; set export.register"
        ):
            tracker.check_model_name("stamps")
    else:
        tracker.check_model_name("stamps")
        assert tracker.register_model("stamps", model_id, {"run": "stamps-1"}) == "1"
        assert tracker.register_model("stamps", model_id, {"run": "stamps-1"}) == "2"
    tracker.set_tags({"stage": "export"})
    tracker.set_description("Three classes.")
    tracker.finish("FINISHED")
    for _ in range(2):
        assert tracker.start(experiment="stamps", run_name="stamps-1", run_id=run_id) == run_id
        tracker.finish("KILLED", reason="interrupted")


# What the memory tracker gives to other tests.


def test_memory_keeps_what_was_logged() -> None:
    tracker = MemoryTracker()
    run_id = started(tracker, tags={"task": "classification"})
    tracker.log_params({"train": {"epochs": 3}})
    tracker.log_metrics({"train/loss": 1.0}, step=0)
    tracker.log_metrics({"train/loss": 0.5}, step=1)
    tracker.finish("FAILED", reason="no space left")
    assert (run_id, tracker.status, tracker.reason) == ("stamps/stamps-1", "FAILED", "no space left")
    assert tracker.params == {"train.epochs": "3"}
    assert tracker.metrics == {"train/loss": [(0, 1.0), (1, 0.5)]}
    assert tracker.tags == {"task": "classification"}


def test_memory_keeps_trials_apart_from_the_run() -> None:
    tracker = MemoryTracker()
    started(tracker)
    tracker.log_trial("stamps-1 trial 1", {"learning_rate": 0.1}, {"validation/kept_loss": 1.25}, HISTORY)
    assert tracker.trials == {
        "stamps-1 trial 1": {
            "params": {"learning_rate": "0.1"}, "metrics": {"validation/kept_loss": 1.25}, "history": HISTORY,
        }
    }  # fmt: skip
    assert (tracker.params, tracker.metrics) == ({}, {})


def test_params_are_flattened_and_spelt_like_the_config() -> None:
    tracker = MemoryTracker()
    tracker.log_params(
        {
            "augment": None,
            "train": {"head": {"learning_rate": 1e-3, "layers": [64, 32]}, "mixed": True, "extra": {}},
            "data": Path("data/stamps"),
            "steps": [{"name": "flip", "p": 0.5}],
            "long": "x" * 6_001,
        }
    )
    long = tracker.params.pop("long")
    assert len(long) == 6_000
    assert long.endswith("x...")
    assert tracker.params == {
        "augment": "null",
        "train.head.learning_rate": "0.001",
        "train.head.layers": "[64, 32]",
        "train.mixed": "true",
        "train.extra": "{}",
        "data": "data/stamps",
        "steps": '[{"name": "flip", "p": 0.5}]',
    }


# MLflow: runs.


def test_run_is_found_by_experiment_and_name(tracker: MlflowTracker, client: Any, root: Path) -> None:
    run = client.get_run(started(tracker, tags={"task": "classification"}))
    experiment = client.get_experiment_by_name("stamps")
    assert run.info.run_name == "stamps-1"
    assert run.info.experiment_id == experiment.experiment_id
    assert experiment.artifact_location == (root / "mlruns" / "stamps").as_uri()
    assert run.data.tags["task"] == "classification"
    assert "mlflow.user" in run.data.tags


def test_params_and_metrics_are_stored_at_once(tracker: MlflowTracker, client: Any) -> None:
    run_id = started(tracker)
    tracker.log_params({f"key_{number}": number for number in range(250)})  # over MLflow's 100 a request
    tracker.log_metrics({"validation/top_1": 0.25}, step=0)
    tracker.log_metrics({"validation/top_1": math.nan}, step=1)
    assert len(client.get_run(run_id).data.params) == 250
    history = client.get_metric_history(run_id, "validation/top_1")
    assert [(metric.step, metric.value) for metric in history] == [(0, 0.25), (1, pytest.approx(math.nan, nan_ok=True))]


def test_start_with_a_run_id_goes_on_in_that_run(tracker: MlflowTracker, client: Any, root: Path) -> None:
    run_id = started(tracker)
    tracker.log_params({"seed": 0})
    tracker.set_description("Three classes.")
    tracker.finish("KILLED", reason="interrupted")

    resumed = MlflowTracker(root)
    assert started(resumed, run_id=run_id) == run_id
    resumed.log_params({"seed": 0})
    run = client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert run.data.tags["mlflow.note.content"] == "Three classes."
    assert "reason" not in run.data.tags
    resumed.finish("FINISHED")
    assert len(client.search_runs([run.info.experiment_id])) == 1


def test_a_run_that_is_gone_on_with_records_nothing_twice(tracker: MlflowTracker, client: Any, root: Path) -> None:
    """A killed process may have recorded what its checkpoint does not know of; the next one says it again."""
    run_id = started(tracker)
    tracker.log_metrics({"train/loss": 0.5, "validation/loss": math.nan}, step=1)
    tracker.log_metrics({"train/loss": 0.25}, step=2)  # killed before the other of step 2 was recorded
    tracker.log_trial("stamps-1 trial 1", {"learning_rate": 0.1}, {"validation/kept_loss": 1.25}, HISTORY)
    again = MlflowTracker(root)
    again.start(experiment="stamps", run_name="stamps-1", run_id=run_id)
    again.log_metrics({"train/loss": 0.5, "validation/loss": math.nan}, step=1)
    again.log_metrics({"train/loss": 0.25, "validation/loss": math.inf}, step=2)
    again.log_metrics({"train/loss": 0.25}, step=3)
    for number in (1, 2):
        name = f"stamps-1 trial {number}"
        again.log_trial(name, {"learning_rate": 0.1}, {"validation/kept_loss": 1.25}, HISTORY)

    def steps(name: str) -> list[int]:
        return [metric.step for metric in client.get_metric_history(run_id, name)]

    assert steps("train/loss") == [1, 2, 3]
    assert steps("validation/loss") == [1, 2]
    nested = client.search_runs([client.get_run(run_id).info.experiment_id], f"tags.mlflow.parentRunId = '{run_id}'")
    assert sorted(run.info.run_name for run in nested) == ["stamps-1 trial 1", "stamps-1 trial 2"]


def test_half_a_trial_is_recorded_anew(tracker: MlflowTracker, client: Any, root: Path) -> None:
    run_id = started(tracker)
    parent = client.get_run(run_id)
    half = client.create_run(
        parent.info.experiment_id, tags={"mlflow.parentRunId": run_id}, run_name="stamps-1 trial 1"
    )  # a process was killed here
    again = MlflowTracker(root)
    again.start(experiment="stamps", run_name="stamps-1", run_id=run_id)
    again.log_trial("stamps-1 trial 1", {"learning_rate": 0.1}, {"validation/kept_loss": 1.25}, HISTORY)
    (whole,) = client.search_runs([parent.info.experiment_id], f"tags.mlflow.parentRunId = '{run_id}'")
    assert (whole.info.status, whole.info.run_id != half.info.run_id) == ("FINISHED", True)
    assert len(client.get_metric_history(whole.info.run_id, "train/loss")) == len(HISTORY)


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_finish_tells_status_and_reason(tracker: MlflowTracker, client: Any, status: Any) -> None:
    run_id = started(tracker)
    tracker.set_description("Three classes.")
    tracker.finish(status, reason="no space left")
    run = client.get_run(run_id)
    assert run.info.status == status
    assert run.info.end_time is not None
    assert run.data.tags["reason"] == "no space left"
    assert run.data.tags["mlflow.note.content"] == f"{status}: no space left\n\nThree classes."


def test_a_trial_is_a_finished_run_below_its_own(tracker: MlflowTracker, client: Any) -> None:
    parent = client.get_run(started(tracker, tags={"task": "classification"}))
    tracker.set_tags({"dataset": "f42d4743208c"})
    tracker.set_description("Not of a trial.")
    tracker.log_trial("stamps-1 trial 1", {"learning_rate": 0.1}, {"validation/kept_loss": 1.25}, HISTORY)
    tracker.log_trial("stamps-1 trial 2", {"learning_rate": 9.0}, {"validation/kept_loss": math.nan}, [])
    tracker.log_metrics({"train/loss": 0.5}, step=1)  # goes to the run itself again

    nested = f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
    runs = client.search_runs([parent.info.experiment_id], nested, order_by=["attributes.start_time"])
    assert [run.info.run_name for run in runs] == ["stamps-1 trial 1", "stamps-1 trial 2"]
    assert [run.info.status for run in runs] == ["FINISHED"] * 2
    assert all(run.info.end_time is not None for run in runs)
    assert [run.data.params for run in runs] == [{"learning_rate": "0.1"}, {"learning_rate": "9.0"}]
    for run in runs:
        assert {"task": "classification", "dataset": "f42d4743208c"}.items() <= run.data.tags.items()
        assert "mlflow.note.content" not in run.data.tags
    history = client.get_metric_history(runs[0].info.run_id, "validation/loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.5), (2, 1.25)]
    assert runs[0].data.metrics["validation/kept_loss"] == 1.25
    assert math.isnan(runs[1].data.metrics["validation/kept_loss"])
    own = client.get_run(parent.info.run_id)
    assert (own.info.status, own.data.params, own.data.metrics) == ("RUNNING", {}, {"train/loss": 0.5})


def test_a_trial_that_cannot_be_recorded_is_not_left_running(tracker: MlflowTracker, client: Any) -> None:
    parent = client.get_run(started(tracker))
    with pytest.raises(TrackingError, match="could not record 'stamps-1 trial 1'"):
        tracker.log_trial("stamps-1 trial 1", {"learning_rate": 0.1}, {"no#name": 1.0}, HISTORY)
    runs = client.search_runs([parent.info.experiment_id], "tags.mlflow.parentRunId != ''")
    assert [run.info.status for run in runs] == ["FAILED"]
    assert client.get_run(parent.info.run_id).info.status == "RUNNING"


def test_nothing_but_the_store_is_touched(
    tracker: MlflowTracker, export_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    started(tracker)
    tracker.log_model(export_dir, labels=LABELS, example=b"image")
    assert mlflow.active_run() is None
    assert not mlflow.tracking.is_tracking_uri_set()
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ
    assert list(elsewhere.iterdir()) == []


def test_a_fresh_store_is_made_without_a_word(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tracker = MlflowTracker(tmp_path / "new" / "project")
    started(tracker)
    tracker.finish("FINISHED")
    assert (tmp_path / "new" / "project" / "mlflow.db").is_file()
    assert capfd.readouterr() == ("", "")


# MLflow: files, tables, datasets.


def test_artifacts_keep_their_names(tracker: MlflowTracker, client: Any, export_dir: Path, root: Path) -> None:
    run_id = started(tracker)
    tracker.log_artifact(export_dir / "labels.txt")
    tracker.log_artifact(export_dir, "evaluation")
    artifacts = root / "mlruns" / "stamps" / run_id / "artifacts"
    assert (artifacts / "labels.txt").is_file()
    assert (artifacts / "evaluation" / "export" / "labels.txt").is_file()
    assert {entry.path for entry in client.list_artifacts(run_id)} == {"labels.txt", "evaluation"}


def test_table_is_readable_and_replaced(
    tracker: MlflowTracker, client: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = started(tracker)
    tracker.log_table("per_class", {"class": ["cat"], "f1": [0.0]})
    tracker.log_table("per_class", {"class": LABELS, "f1": [0.5, math.nan, 1.0]})
    run = client.get_run(run_id)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")  # where load_table looks, for one
    table = client.load_table(run.info.experiment_id, "tables/per_class.json", [run_id])
    assert table["class"].tolist() == LABELS
    assert table["f1"].tolist() == [0.5, pytest.approx(math.nan, nan_ok=True), 1.0]
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "tables/per_class.json", "type": "table"}]


def test_dataset_digest_is_visible(tracker: MlflowTracker, client: Any) -> None:
    run_id = started(tracker)
    digest = "0123456789abcdef" * 4
    tracker.log_dataset(name="stamps", digest=digest, source="data/stamps", counts={"train": 3, "test": 1})
    (logged,) = client.get_run(run_id).inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("stamps", digest[:12])
    assert json.loads(logged.dataset.source) == {"uri": "data/stamps"}
    assert json.loads(logged.dataset.profile) == {"num_rows": 4, "train": 3, "test": 1, "digest": digest}
    assert [(tag.key, tag.value) for tag in logged.tags] == [("mlflow.data.context", "training")]


# MLflow: models.


def test_model_belongs_to_its_run(tracker: MlflowTracker, client: Any, export_dir: Path) -> None:
    run_id = started(tracker)
    tracker.log_params({"seed": 0})
    tracker.log_metrics({"test/top_1": 0.5, "train/loss": 1.0})
    tracker.log_dataset(name="stamps", digest="ab" * 32, source="data/stamps", counts={"test": 1})
    tracker.set_description("Three classes.")
    model_id = tracker.log_model(export_dir, labels=LABELS, example=b"image")
    run = client.get_run(run_id)
    (model,) = client.search_logged_models([run.info.experiment_id], filter_string=f"source_run_id = '{run_id}'")
    assert (model.model_id, str(model.status)) == (model_id, "READY")
    assert [output.model_id for output in run.outputs.model_outputs] == [model_id]
    assert model.params == {"seed": "0"}
    assert model.tags["mlflow.note.content"] == "Three classes."
    (metric,) = model.metrics
    assert (metric.key, metric.value, metric.dataset_name) == ("test/top_1", 0.5, "stamps")
    assert len(client.get_metric_history(run_id, "test/top_1")) == 1


def test_a_second_export_takes_the_place_of_the_first(tracker: MlflowTracker, client: Any, export_dir: Path) -> None:
    other = MlflowTracker(Path(client.tracking_uri.removeprefix("sqlite:///")).parent)
    other.start(experiment="stamps", run_name="stamps-2")
    untouched = other.log_model(export_dir, labels=LABELS, example=b"image")
    run_id = started(tracker)
    (export_dir / "sha256sums.txt").write_text("first")
    tracker.log_model(export_dir, labels=LABELS, example=b"image")
    (export_dir / "sha256sums.txt").write_text("second")
    second = tracker.log_model(export_dir, labels=LABELS, example=b"image")
    models = client.search_logged_models([client.get_run(run_id).info.experiment_id])
    assert {model.model_id for model in models} == {untouched, second}
    tags = {model.model_id: model.tags.get("export") for model in models}
    assert tags == {untouched: None, second: hashlib.sha256(b"second").hexdigest()}


def test_what_somebody_registered_by_hand_stays_too(
    tracker: MlflowTracker, client: Any, export_dir: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    run_id = started(tracker)
    first = tracker.log_model(export_dir, labels=LABELS, example=b"image")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
    mlflow.register_model(f"models:/{first}", "by hand")
    second = tracker.log_model(export_dir, labels=LABELS, example=b"image")
    models = client.search_logged_models([client.get_run(run_id).info.experiment_id])
    assert {model.model_id for model in models} == {first, second}


def test_what_was_registered_stays_whatever_is_exported_later(
    tracker: MlflowTracker, client: Any, saved_model: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    import pandas as pd

    run_id = started(tracker)
    first = tracker.log_model(saved_model, labels=LABELS, example=b"image")
    assert first is not None
    tracker.register_model("stamps", first, {})
    second = tracker.log_model(saved_model, labels=LABELS, example=b"image")
    models = client.search_logged_models([client.get_run(run_id).info.experiment_id])
    assert {model.model_id for model in models} == {first, second}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
    model = mlflow.pyfunc.load_model("models:/stamps@candidate")
    assert model.metadata.model_id == first
    assert model.predict(pd.DataFrame({"image": [b"xxxx"]}))["label"].item() == "dog"


def test_model_that_cannot_be_saved_is_marked_failed(tracker: MlflowTracker, client: Any, tmp_path: Path) -> None:
    run_id = started(tracker)
    with pytest.raises(TrackingError, match="could not log the model"):
        tracker.log_model(tmp_path / "absent", labels=LABELS, example=b"image")
    (model,) = client.search_logged_models([client.get_run(run_id).info.experiment_id])
    assert str(model.status) == "FAILED"


def test_logged_model_predicts_like_the_saved_model(
    tracker: MlflowTracker, saved_model: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    import pandas as pd
    import tensorflow as tf

    started(tracker)
    model_id = tracker.log_model(saved_model, labels=LABELS, example=b"image")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
    model = mlflow.pyfunc.load_model(f"models:/{model_id}")
    assert model.metadata.metadata == {"labels": LABELS}
    assert model.metadata.get_input_schema().input_types_dict().keys() == {"image"}

    images = [b"x" * number for number in range(70)]  # more than two of the loader's batches
    answers = model.predict(pd.DataFrame({"image": images}, index=range(100, 170)))
    expected = tf.saved_model.load(saved_model).signatures["serving_default"](image_bytes=tf.constant(images))
    probabilities = expected["probabilities"].numpy()
    assert answers.index.tolist() == list(range(100, 170))
    assert answers["label"].tolist() == [label.decode() for label in expected["label"].numpy()]
    assert answers["class_id"].tolist() == expected["class_id"].numpy().tolist()
    assert answers["probability"].tolist() == probabilities.max(axis=1).tolist()
    assert answers["probabilities"].tolist() == probabilities.tolist()
    assert answers["confident"].tolist() == expected["confident"].numpy().tolist()
    assert answers["error"].tolist() == [error.decode() for error in expected["error"].numpy()]


def test_the_script_takes_base64_and_no_rows_and_answers_what_is_no_image(saved_model: Path) -> None:
    import pandas as pd
    from mlflow.pyfunc import PythonModelContext

    from pipeline.tracking.model_script import ImageClassifier

    classifier, context = ImageClassifier(), PythonModelContext({"export": str(saved_model)}, None)
    classifier.load_context(context)
    columns = ["label", "class_id", "probability", "probabilities", "confident", "error"]
    images = ["eHh4eA==", b"xxxx", memoryview(b"xxxxx"), "a", None]
    answers = classifier.predict(context, pd.DataFrame({"image": images}))
    not_base64, nothing = LABELS[len(b"not base64") % 3], LABELS[0]
    assert answers["label"].tolist() == ["dog", "dog", "owl", not_base64, nothing]
    assert answers["error"].tolist() == ["", "", "", "", "short"]
    assert classifier.predict(context, pd.DataFrame({"image": []})).columns.tolist() == columns


def test_the_logged_folder_holds_one_export_no_pickle_and_no_path_of_this_machine(
    tracker: MlflowTracker, client: Any, saved_model: Path
) -> None:
    from mlflow.utils.file_utils import local_file_uri_to_path

    started(tracker)
    model_id = tracker.log_model(saved_model, labels=LABELS, example=b"image")
    folder = Path(local_file_uri_to_path(client.get_logged_model(model_id).artifact_location))
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len([path for path in files if path.name == "saved_model.pb"]) == 1
    assert [path for path in files if path.suffix in (".pkl", ".pickle", ".cloudpickle")] == []
    for path in (path for path in files if "export" not in path.parts):
        text = path.read_text()
        for word in ("cloudpickle", str(saved_model), str(Path(pipeline.__file__).parent)):
            assert word not in text, path


LOAD_AND_PREDICT = """
import sys
import mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
print(model.predict(pandas.DataFrame({"image": [b"xxxx"]}))["label"].item())
print([name for name in sys.modules if name.startswith("pipeline")])
"""


@pytest.mark.slow
def test_logged_model_loads_where_this_package_is_not(
    tracker: MlflowTracker, saved_model: Path, root: Path, tmp_path: Path
) -> None:
    started(tracker)
    model_id = tracker.log_model(saved_model, labels=LABELS, example=b"image")
    done = subprocess.run(
        [sys.executable, "-c", LOAD_AND_PREDICT, f"models:/{model_id}"],
        cwd=tmp_path,
        env=os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{root / 'mlflow.db'}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.splitlines() == ["dog", "[]"]


# MLflow: the registry.


@pytest.mark.parametrize("name", ["a/b", "a:b", " ", ".."])
def test_a_name_that_mlflow_refuses_is_refused_before_anything_is_done(
    tracker: MlflowTracker, name: str, photo_folder: Path, root: Path
) -> None:
    settings = ("model.backbone=convnet", "model.weights=none", f"export.register={json.dumps(name)}")
    with pytest.raises(ConfigError, match=r"export.register: MLflow takes no registered model "):
        run_pipeline(Request(data=str(photo_folder), settings=settings), root, tracker=tracker)
    assert [path.name for path in root.iterdir()] == ["mlflow.db"]


def test_a_version_is_its_logged_model(tracker: MlflowTracker, client: Any, export_dir: Path) -> None:
    run_id = started(tracker)
    (export_dir / "sha256sums.txt").write_text("sums")
    first, second = (tracker.log_model(export_dir, labels=LABELS, example=b"image") for _ in range(2))
    assert second is not None
    with pytest.raises(TrackingError, match=r"could not register the model as 'stamps'"):
        tracker.register_model("stamps", str(first), {})  # gone since
    assert tracker.register_model("stamps", second, {"run": "stamps-1"}) == "1"
    version = client.get_model_version("stamps", "1")
    assert (version.run_id, version.source) == (run_id, client.get_logged_model(second).artifact_location)
    assert version.tags == {"run": "stamps-1", "export": hashlib.sha256(b"sums").hexdigest()}
    assert client.get_model_version_by_alias("stamps", "candidate").version == version.version
    assert tracker.register_model("stamps", second, {}) == "2"
    assert client.get_registered_model("stamps").aliases == {"candidate": 2}


# MLflow: what can go wrong.


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Yields a port that is held, so that nobody else gets it, but where nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def test_unreachable_server_is_told_quickly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, closed_port: int) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{closed_port}")
    before = time.monotonic()
    with pytest.raises(TrackingError, match=r"127\.0\.0\.1:\d+: .*refused; .*MLFLOW_TRACKING_URI") as caught:
        started(MlflowTracker(tmp_path))
    assert time.monotonic() - before < 15
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_deleted_experiment_is_told(tracker: MlflowTracker, client: Any) -> None:
    client.delete_experiment(client.create_experiment("stamps"))
    with pytest.raises(TrackingError, match=r"'stamps' was deleted in MLflow; .* mlflow experiments restore"):
        started(tracker)


def test_run_of_another_store_is_told(tracker: MlflowTracker) -> None:
    with pytest.raises(TrackingError, match=r"id=feed not found; .*another store.*start a new run"):
        started(tracker, run_id="feed")


def test_changed_param_is_told_in_one_line(tracker: MlflowTracker) -> None:
    started(tracker)
    tracker.log_params({"seed": 0})
    with pytest.raises(TrackingError, match=r"could not record parameters") as caught:
        tracker.log_params({"seed": 1})
    assert "\n" not in str(caught.value)


def test_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("not a database, whatever its name")
    with pytest.raises(TrackingError, match="file is not a database"):
        started(MlflowTracker(tmp_path))


def track_one_run(root: Path) -> str:
    tracker = MlflowTracker(root)
    run_id = started(tracker)
    tracker.log_metrics({"test/top_1": 0.5})
    tracker.finish("FINISHED")
    return run_id


@pytest.mark.slow
def test_processes_may_share_the_first_use_of_a_store(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(4, mp_context=spawn) as processes:
        run_ids = list(processes.map(track_one_run, [tmp_path] * 4, timeout=120))
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("stamps").experiment_id])
    assert {run.info.run_id for run in runs} == set(run_ids)
    assert [run.info.status for run in runs] == ["FINISHED"] * 4


def register_one(root: Path, model_id: str) -> str:
    return MlflowTracker(root).register_model("stamps", model_id, {"process": str(os.getpid())})


@pytest.mark.slow
def test_processes_may_register_at_once(tracker: MlflowTracker, client: Any, export_dir: Path, root: Path) -> None:
    started(tracker)
    model_id = tracker.log_model(export_dir, labels=LABELS, example=b"image")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(4, mp_context=spawn) as processes:
        numbers = list(processes.map(register_one, [root] * 8, [model_id] * 8, timeout=120))
    assert sorted(numbers) == [str(number) for number in range(1, 9)]
    versions = client.search_model_versions("name = 'stamps'")
    assert {version.version for version in versions} == set(range(1, 9))
    assert client.get_registered_model("stamps").aliases == {"candidate": 8}
    listed = json.loads(client.get_logged_model(model_id).tags["mlflow.modelVersions"])
    assert [str(entry["version"]) for entry in listed] == [str(number) for number in range(1, 9)]
